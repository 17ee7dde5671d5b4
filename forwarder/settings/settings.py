"""Every setting: its name, its default, what it may be, and what to write instead when it is wrong.

The field's description is the remedy that an error ends with. Where the values come from: `sources`; what only
several settings together can get wrong: `together`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PrivateAttr, SecretStr, WrapValidator, field_validator
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from forwarder.model import RouteName
from forwarder.settings import values
from forwarder.settings.buses import BusSettings
from forwarder.settings.choices import event_words, readable_file, route_names, word
from forwarder.settings.operators import NamedToken, UserHeader, named_token, named_tokens, user_header
from forwarder.settings.otel import TracingSettings
from forwarder.settings.proxies import NO_PROXIES, Proxies
from forwarder.settings.route_choice import routes_that_run
from forwarder.settings.sources import DEFAULT, Origin, Place, TextSource
from forwarder.settings.values import Address

GATHERED = "gathered"  # the argument that carries the sources of `load`
VENDORS = ("RUDDERSTACK_", "COURIER_")
RETENTION_S_MIN = 93_600  # Courier resends for about a day; a key must outlive that
GATEWAY_BYTES_MAX = 4_096_000  # the data plane's own limit of a request, uncompressed

HeaderSecret = Annotated[SecretStr, BeforeValidator(values.header_secret)]
Secrets = Annotated[tuple[SecretStr, ...], BeforeValidator(values.secret_list)]
BaseUrl = Annotated[str, AfterValidator(values.base_url)]
Listen = Annotated[Address, BeforeValidator(values.address)]
Listens = Annotated[tuple[Address, ...], BeforeValidator(values.addresses)]
Word = WrapValidator(word)
TomlFile = Annotated[Path, AfterValidator(readable_file)]


def variable_of(field: str) -> str:
    """Return the environment's name of a field."""
    upper = field.upper()
    return upper if upper.startswith(VENDORS) else f"FORWARDER_{upper}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingRow:
    """One effective setting as people may see it: a secret shows only that it is set."""

    variable: str
    value: str
    origin: str
    is_secret: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How settings were read, beside their values: where each came from, and what is told without being wrong."""

    origins: Mapping[str, Origin] = field(default_factory=dict)
    notices: tuple[str, ...] = ()
    proxies: Proxies = NO_PROXIES
    tracing: TracingSettings | None = None  # None: nothing is traced
    place: Place | None = None  # where they can be read again


class Settings(BusSettings):
    """What the daemon runs with. Frozen; `load` makes it, tests may `Settings.model_validate({variable: text})`.

    Secrets never show in `repr`, `str` or `rows()`.
    """

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=variable_of,
        hide_input_in_errors=True,
        validate_default=False,
        arbitrary_types_allowed=True,
    )

    rudderstack_write_key: HeaderSecret | None = Field(
        None, description="Copy the write key of the source that shall receive Courier's events."
    )
    rudderstack_data_plane_url: BaseUrl | None = Field(
        None, description="Set the data plane's base URL, such as https://example.dataplane.rudderstack.com."
    )
    courier_webhook_secrets: Secrets = Field(
        (),
        alias="COURIER_WEBHOOK_SECRET",
        description="Set the signing secret of Courier's webhook; several comma-separated or as JSON.",
    )
    courier_api_key: HeaderSecret | None = Field(None, description="Copy an API key from Courier's settings.")
    courier_api_url: BaseUrl = Field(
        "https://api.courier.com", description="Set https://api.courier.com, or https://api.eu.courier.com for the EU."
    )
    inbound_keys: Secrets = Field(
        (), description="Set the keys that senders must present; several comma-separated or as a JSON array."
    )
    events_key: HeaderSecret | None = Field(None, description="Set the key that senders to POST /events must present.")
    routes_asked: Annotated[tuple[RouteName, ...] | None, BeforeValidator(route_names)] = Field(
        None,
        alias="FORWARDER_ROUTES",
        description="Name courier_to_rudderstack, rudderstack_to_courier or both, comma-separated; or leave it unset.",
    )
    listen: Listens = Field(
        (Address("0.0.0.0", 8080),),  # noqa: S104  the public listener; a container must be reachable
        description="Set host:port, such as 0.0.0.0:8080 or [::]:8080 (IPv6 and IPv4); several comma-separated.",
    )
    public_url: Annotated[str, AfterValidator(values.public_url)] | None = Field(
        None, description="Set the URL under which the outside reaches the daemon, such as https://bridge.example.com."
    )
    proxy_protocol: bool = Field(
        default=False, description="Set true when every connection comes through a proxy that sends PROXY protocol."
    )
    idle_max_s: float = Field(
        75.0, gt=0, le=86_400, allow_inf_nan=False, description="Set seconds, above the load balancer's, such as 75."
    )
    segment_signature: Annotated[Literal["body", "first"], Word] = Field(
        "body", description="Set body, or first for batches that Segment signs over their first element."
    )
    operator_listen: Listen = Field(Address("127.0.0.1", 8081), description="Set host:port, such as 127.0.0.1:8081.")
    operator_token: HeaderSecret | None = Field(
        None, description="Set a long random token of printable characters (openssl rand -hex 32)."
    )
    operator_tokens: Annotated[tuple[SecretStr, ...], BeforeValidator(named_tokens)] = Field(
        (), description="Set name:role:token, role view or operate, such as alice:operate:…; several comma-separated."
    )
    operator_user_header: Annotated[UserHeader, BeforeValidator(user_header)] | None = Field(
        None,
        description="Set header=addresses of the proxy that sets it, such as X-Forwarded-User=10.0.0.7,10.1.0.0/24.",
    )
    alert_url: Annotated[SecretStr, BeforeValidator(values.alert_url)] | None = Field(
        None, description="Set where incidents are posted to, such as a Slack or Teams webhook; https."
    )
    alert_template: Annotated[str, AfterValidator(values.no_blank)] | None = Field(
        None, description="Set the id of a Courier template that tells of incidents."
    )
    alert_to: Annotated[tuple[str, ...], BeforeValidator(values.recipients)] = Field(
        (), description="Set who is told through Courier: e-mail addresses or user ids, comma-separated, at most 10."
    )
    data_dir: Path = Field(Path("data"), description="Set the folder of the spool.")
    spool: Annotated[Literal["sqlite", "postgres"], Word] = Field("sqlite", description="Set sqlite or postgres.")
    postgres_url: Annotated[SecretStr, BeforeValidator(values.postgres_url)] | None = Field(
        None,
        description="Set postgresql://user:password@host:5432/database?sslmode=verify-full&sslrootcert=…; several "
        "hosts comma-separated.",
    )
    event_names: Annotated[Literal["courier", "channel"], Word] = Field(
        "courier", description="Set courier or channel."
    )
    events: Annotated[tuple[str, ...], BeforeValidator(event_words)] = Field(
        ("native",), description="Set native, all, or event names separated by commas."
    )
    rules: TomlFile | None = Field(None, description="Set the path of a TOML file that the daemon may read.")
    links: TomlFile | None = Field(None, description="Set the path of a TOML file that the daemon may read.")
    inbound_mode: Annotated[Literal["direct", "relay"], Word] = Field("direct", description="Set direct or relay.")
    batch_events_max: int = Field(100, ge=1, le=10_000, description="Set a whole number of events, such as 100.")
    batch_bytes_max: int = Field(
        500_000,
        ge=1,
        le=GATEWAY_BYTES_MAX,
        description="Set a whole number of bytes up to 4096000, the data plane's own limit.",
    )
    batch_wait_max_s: float = Field(0.2, ge=0, le=60, allow_inf_nan=False, description="Set seconds, such as 0.2.")
    concurrency_max: int = Field(32, ge=1, le=1_024, description="Set a whole number of requests, such as 32.")
    signature_age_max_s: int = Field(93_600, ge=1, description="Set whole seconds, such as 93600 (26 hours).")
    spool_bytes_max: int = Field(4_294_967_296, ge=1, description="Set a whole number of bytes, such as 4294967296.")
    retention_s: int = Field(
        604_800,
        ge=RETENTION_S_MIN,
        description="Set whole seconds, at least 93600 (26 hours): senders resend for about a day.",
    )
    body_bytes_max: int = Field(6_291_456, ge=1, description="Set a whole number of bytes, such as 6291456.")
    drain_max_s: float = Field(25.0, gt=0, le=3_600, allow_inf_nan=False, description="Set seconds, such as 25.")
    log_format: Annotated[Literal["json", "console"], Word] = Field("json", description="Set json or console.")
    log_level: Annotated[Literal["debug", "info", "warning", "error"], Word] = Field(
        "info", description="Set debug, info, warning or error."
    )

    _reading: Reading = PrivateAttr(default_factory=Reading)

    @field_validator("*", mode="before")
    @classmethod
    def _is_meant(cls, value: Any) -> Any:
        """Refuse what no setting means: leftovers of quoting, marks that nobody sees, an example's placeholder."""
        if isinstance(value, str):
            values.refuse_odd(value)
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read what `load` gathered, source by source, and nothing of the process behind its back."""
        del env_settings, dotenv_settings, file_secret_settings
        assert isinstance(init_settings, InitSettingsSource)  # noqa: S101  it is pydantic-settings' own
        gathered = init_settings.init_kwargs.pop(GATHERED, ())
        return (init_settings, *(TextSource(settings_cls, found) for found in gathered))

    @property
    def routes(self) -> tuple[RouteName, ...]:
        """Return the routes that run: those asked for, else every one whose settings are given."""
        return self.routes_asked if self.routes_asked is not None else routes_that_run(self.given())

    def named_tokens(self) -> tuple[NamedToken, ...]:
        """Return whose tokens the operator's listener takes, beside the shared one."""
        return tuple(named_token(entry.get_secret_value()) for entry in self.operator_tokens)

    @classmethod
    def variables(cls) -> dict[str, str]:
        """Return every variable with its field's name, in the order of the documentation."""
        # Inherited fields come first where nobody asks otherwise.
        fields = sorted(cls.model_fields.items(), key=lambda one: one[0] in BusSettings.model_fields)
        return {field.alias or variable_of(name): name for name, field in fields}

    def given(self) -> frozenset[str]:
        """Return the variables that were set, by whatever source."""
        return frozenset(variable for variable, field in self.variables().items() if field in self.model_fields_set)

    @property
    def reading(self) -> Reading:
        """Return how they were read."""
        return self._reading

    def as_read(self, reading: Reading) -> "Settings":
        """Return the same settings that also know how they were read."""
        copy = self.model_copy()
        copy._reading = reading  # noqa: SLF001  its own class
        return copy

    def with_values_of(self, other: "Settings", variables: Iterable[str]) -> "Settings":
        """Return these settings with the values that others have for these variables."""
        fields = [self.variables()[variable] for variable in variables]
        return self.model_copy(update={field: getattr(other, field) for field in fields})

    def origin(self, variable: str) -> Origin:
        """Return where the variable's value came from."""
        return self._reading.origins.get(variable, DEFAULT)

    def differences(self, other: "Settings") -> list[str]:
        """Return the variables whose values differ."""
        return [
            variable for variable, field in self.variables().items() if getattr(self, field) != getattr(other, field)
        ]

    @classmethod
    def is_secret(cls, variable: str) -> bool:
        """Tell whether the variable's value is never shown."""
        return "SecretStr" in str(cls.model_fields[cls.variables()[variable]].annotation)

    def rows(self) -> tuple[SettingRow, ...]:
        """Return every effective setting for people's eyes."""
        return tuple(
            SettingRow(
                variable=variable,
                value=_shown(getattr(self, field)),
                origin=str(self.origin(variable)),
                is_secret=self.is_secret(variable),
            )
            for variable, field in self.variables().items()
        )


def _shown(value: object) -> str:
    match value:
        case None | ():
            return ""
        case SecretStr():
            return "(set)"
        case tuple() if isinstance(value[0], SecretStr):
            return f"({len(value)} set)"
        case tuple():
            return ",".join(str(one) for one in value)
        case bool() | float():
            return str(value).removesuffix(".0").lower()
        case _:
            return str(value)
