#!/bin/sh
# Create the database and its three roles, with the passwords of secrets.sh. The image of PostgreSQL runs this once, when
# its volume is new.
set -eu

password() { sed 's|^postgres://[^:]*:\([0-9a-f]*\)@.*|\1|' "${SECRETS:-/run/secrets}/database-url-$1"; }

# The passwords go through standard input: other processes could read an argument.
psql --quiet --no-psqlrc --set ON_ERROR_STOP=1 --username "${POSTGRES_USER:-postgres}" --dbname postgres <<SQL
CREATE ROLE strake LOGIN PASSWORD '$(password owner)';
CREATE ROLE strake_proxy LOGIN PASSWORD '$(password proxy)';
CREATE ROLE strake_web LOGIN PASSWORD '$(password web)';
CREATE DATABASE strake OWNER strake;
SQL
