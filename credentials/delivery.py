"""Where a provider key is sent, and in which places: the preset's, or what the person entered."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from accounts.models import User
from credentials import destinations, key_check
from credentials import places as key_places
from credentials.destinations import Destination
from credentials.errors import InvalidDestination, InvalidKey, KeyRefused, KeyUnchecked
from credentials.models import Credential
from credentials.places import Place
from credentials.providers import BEARER, STATIC, Provider
from credentials.vault.provider_key import ProviderKey


@dataclass(frozen=True, slots=True)
class Delivery:
    """Where a provider key is sent, and in which places. Without `header_name`, only `places` hold it.

    Of a `kind` other than static, it is not the key that is sent, but the access tokens that it buys with `parameters`.
    """

    destination: Destination
    header_name: str
    header_template: str
    places: tuple[Place, ...] = ()
    kind: str = STATIC
    parameters: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, credential: Credential) -> Delivery:
        """The delivery that a credential is stored with."""
        return cls(
            destinations.parse(credential.destination_url),
            credential.header_name,
            credential.header_template,
            tuple(Place(*place) for place in credential.places),
            credential.kind,
            dict(credential.parameters),
        )

    def write_to(self, credential: Credential) -> None:
        """Set the fields of a credential that its key is bound to."""
        credential.destination_url = self.destination.url
        credential.header_name = self.header_name
        credential.header_template = self.header_template
        credential.places = [list(place) for place in self.places]
        credential.kind = self.kind
        credential.parameters = dict(self.parameters)

    def check_key(self, owner: User, provider: Provider, key: ProviderKey, *, unchecked: bool) -> None:
        """Ask the provider about a key. Raises `KeyRefused`, and without `unchecked` `KeyUnchecked`.

        With the key of a cloud credential, this buys an access token, and asks the provider about that.
        """
        try:
            if self.kind == STATIC:
                self._ask(owner, provider, key)
                return
            token = key_check.buy_token(
                kind=self.kind, parameters=self.parameters, key=key, owner_id=owner.pk, owner_email=owner.email
            )
            try:
                self._ask(owner, provider, token)
            except KeyRefused:
                raise KeyRefused(
                    f"The secret is valid, but {provider.name} gives its account no access. Assign it a role that may "
                    "call the models, and try again some minutes later."
                ) from None
        except KeyUnchecked:
            if not unchecked:
                raise

    def _ask(self, owner: User, provider: Provider, key: ProviderKey) -> None:
        key_check.check_key(
            provider=provider,
            destination=self.destination,
            header_name=self.header_name,
            header_template=self.header_template,
            places=self.places,
            key=key.reveal(),
            owner_id=owner.pk,
            owner_email=owner.email,
        )


def delivery_of(
    owner: User,
    provider: Provider,
    destination_url: str,
    header_name: str,
    header_template: str,
    places: Iterable[Sequence[str]],
    *,
    kind: str = STATIC,
    parameters: dict[str, str] | None = None,
) -> Delivery:
    """The provider's fixed settings, or the person's if the provider leaves them open.

    Raises `InvalidDestination`, or `InvalidKey` for a kind of credential that the provider does not take.
    """
    if kind not in provider.kinds:
        known = ", ".join(provider.kinds)
        raise InvalidKey(f"{provider.name} takes no credential of this kind. Choose one of: {known}", field="kind")
    if kind != STATIC:
        destination = _destination(owner, provider, destination_url)
        return Delivery(destination, "Authorization", BEARER, kind=kind, parameters=parameters or {})
    if not provider.is_custom:
        destination = _destination(owner, provider, destination_url)
        return Delivery(destination, provider.header_name, provider.header_template)
    header = key_places.with_default_header(provider, header_name, header_template, further := list(places))
    name, template, checked = key_places.check(*header, further)
    return Delivery(_destination(owner, provider, destination_url), name, template, checked)


def _destination(owner: User, provider: Provider, url: str) -> Destination:
    """The provider's destination, or the one that the person has chosen or entered. Raises `InvalidDestination`."""
    if provider.destination_url:
        return destinations.parse(provider.destination_url)
    if provider.choices:
        if url.strip().rstrip("/") not in provider.destination_urls:
            known = ", ".join(provider.destination_urls)
            raise InvalidDestination(f"Choose one of the destinations of {provider.name}: {known}")
        return destinations.parse(url)
    if not url.strip():
        raise InvalidDestination(f"Enter the address of the API, like {provider.destination_example}")
    return destinations.check(url, owner_id=owner.pk, owner_email=owner.email)
