#!/bin/sh
# Create the secrets of compose.full.yaml in ./secrets, and keep those that exist. For email, set EMAIL_URL:
#
#   EMAIL_URL=smtp+tls://USER:PASSWORD@mail.example.org:587 sh contrib/compose/secrets.sh
set -eu
: "${EMAIL_URL:?Set EMAIL_URL to your mail server, such as smtp+tls://USER:PASSWORD@mail.example.org:587}"

# Only this user may enter the folder. Containers see single files of it, as another user, so the files are readable.
mkdir -p secrets
chmod 0700 secrets
cd secrets

random() { od -An -N32 -tx1 /dev/urandom | tr -d ' \n'; }
create() { # NAME VALUE
    [ -e "$1" ] || { printf '%s\n' "$2" >"$1.new" && chmod 0444 "$1.new" && mv "$1.new" "$1"; }
}

create postgres-password "$(random)"
create database-url-owner "postgres://strake:$(random)@postgres/strake"
create database-url-proxy "postgres://strake_proxy:$(random)@postgres/strake"
create database-url-web "postgres://strake_web:$(random)@postgres/strake"
create secret-key "$(random)"
create email-url "$EMAIL_URL"
