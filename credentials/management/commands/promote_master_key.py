"""`manage.py promote_master_key`: make a master key the primary, once every server holds it."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import CommandError

from credentials.errors import SealError
from credentials.management.base import KeyringCommand, add_wait_arguments, say_waiting
from credentials.vault import master_keys


class Command(KeyringCommand):
    help = (
        "Make a master key of the keyring the primary, under which everything is sealed from then on. Waits until "
        "every running server holds the key, and fails with the names of those that don't."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("id", help="the master key's id, such as 2026-11-b")
        self.add_place_arguments(parser)
        add_wait_arguments(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        key_id, place = options["id"], self.place(options["output"])
        try:
            if place.read().primary_id == key_id:
                self.print(f"{key_id} is the primary master key already.")
                return
            master_keys.promote(
                actor=self.actor,
                place=place,
                key_id=key_id,
                wait_seconds=options["wait"],
                no_server=options["no_server"],
                on_wait=say_waiting(self),
            )
        except SealError as error:
            raise CommandError(str(error)) from None
        self.print(f"{key_id} is the primary in {place}.")
        if place.write:
            self.print("Store it where the servers' keyring comes from.")
        self.print("Next, when every host has it: manage.py rotate_master_key")
