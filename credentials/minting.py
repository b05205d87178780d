"""The paths of provider APIs whose responses contain a credential, or open a session outside of Strake.

What such a call hands out works until it expires at the provider, whatever happens to the caller's token. So these
calls are refused unless the token allows them.
"""

from __future__ import annotations

from dataclasses import dataclass

# Reads mint at a few providers only, so other paths stay readable.
WRITES = frozenset({"PATCH", "POST", "PUT", "QUERY"})
ANY_METHOD = WRITES | {"DELETE", "GET", "HEAD", "OPTIONS"}


@dataclass(frozen=True, slots=True)
class MintingPaths:
    """Paths of the hosts in `hosts`. A host that starts with a dot stands for its subdomains, at any depth.

    `writes` are refused for the methods in `WRITES`, and `any_method` for all. A path is the end of a request's path,
    in lower case, so that API versions and base paths before it do not matter. `*` stands for one segment.
    """

    hosts: tuple[str, ...]
    writes: tuple[str, ...] = ()
    any_method: tuple[str, ...] = ()


# Client secrets, and WebRTC calls, which go directly to the provider once this request has set them up.
# https://developers.openai.com/api/docs/guides/realtime-webrtc
_REALTIME = (
    "/realtime",
    "/realtime/calls",
    "/realtime/client_secrets",
    "/realtime/sessions",
    "/realtime/transcription_sessions",
    "/realtime/translations",
    "/realtime/translations/calls",
    "/realtime/translations/client_secrets",
)

# By slug of the provider table first. Other slugs stand for hosts that people enter themselves.
MINTING_PATHS: dict[str, MintingPaths] = {
    # https://developers.openai.com/api/reference/resources/realtime/subresources/client_secrets
    # https://developers.openai.com/api/reference/resources/organization
    "openai": MintingPaths(
        hosts=("api.openai.com", ".api.openai.com"),
        writes=(
            *_REALTIME,
            "/chatkit/sessions",
            "/organization/admin_api_keys",
            "/organization/certificates",
            "/organization/invites",
            "/organization/projects/*/api_keys",
            "/organization/projects/*/certificates",
            "/organization/projects/*/service_accounts",
            "/organization/projects/*/service_accounts/*/api_keys",
            "/organization/workload_identity_providers",
            "/organization/workload_identity_providers/*/federation_rules",
        ),
    ),
    # https://learn.microsoft.com/azure/foundry/openai/how-to/realtime-audio-webrtc
    # https://learn.microsoft.com/azure/ai-services/authentication (sts: ten-minute tokens)
    "azure-openai": MintingPaths(
        hosts=(
            ".openai.azure.com",
            ".openai.azure.us",
            ".cognitiveservices.azure.com",
            ".services.ai.azure.com",
            ".api.cognitive.microsoft.com",
            ".ai.azure.com",
        ),
        writes=(*_REALTIME, "/realtimeapi/sessions", "/realtimertc", "/chatkit/sessions", "/issuetoken"),
    ),
    # https://platform.claude.com/docs/en/manage-claude/admin-api
    "anthropic": MintingPaths(
        hosts=("api.anthropic.com",),
        writes=(
            "/oauth/claude_cli/create_api_key",
            "/oauth/token",
            "/organizations/api_keys",
            "/organizations/invites",
            "/tunnels/*/reveal_token",
            "/tunnels/*/rotate_token",
        ),
    ),
    # https://ai.google.dev/gemini-api/docs/ephemeral-tokens
    # https://cloud.google.com/iam/docs/reference/credentials/rest, and …/iam/docs/reference/sts/rest
    # A batch request contains other requests: https://developers.google.com/workspace/drive/api/guides/performance#batch
    "gemini": MintingPaths(
        hosts=(".googleapis.com",),
        writes=(
            "/auth_tokens",
            "/auth_tokens:create",
            "/authtokens",
            "/authtokens:create",
            "/batch",
            "/batch/*",
            "/batch/*/*",
            "/locations/*/keys",
            "/serviceaccounts/*/keys",
            "/serviceaccounts/*:generateaccesstoken",
            "/serviceaccounts/*:generateidtoken",
            "/serviceaccounts/*:signblob",
            "/serviceaccounts/*:signjwt",
            "/token",
        ),
    ),
    # https://docs.x.ai/developers/model-capabilities/audio/ephemeral-tokens
    # https://docs.x.ai/developers/rest-api-reference/management
    "xai": MintingPaths(hosts=("api.x.ai", ".api.x.ai", "management-api.x.ai"), writes=(*_REALTIME, "/api-keys")),
    # https://openrouter.ai/docs/features/provisioning-api-keys, https://openrouter.ai/docs/use-cases/oauth-pkce
    "openrouter": MintingPaths(
        hosts=("openrouter.ai", "www.openrouter.ai"), writes=("/v1/keys", "/v1/auth/keys", "/v1/auth/keys/code")
    ),
    # https://docs.mistral.ai/api/endpoint/realtime/sessions
    "mistral": MintingPaths(hosts=("api.mistral.ai",), writes=("/client/sessions",)),
    # https://docs.fireworks.ai/api-reference/create-api-key
    "fireworks": MintingPaths(hosts=("api.fireworks.ai",), writes=("/users/*/apikeys",)),
    # https://docs.perplexity.ai/api-reference/generate-auth-token-post
    "perplexity": MintingPaths(hosts=("api.perplexity.ai",), writes=("/generate_auth_token",)),
    # https://elevenlabs.io/docs/api-reference/tokens/create, …/conversations/get-signed-url
    "elevenlabs": MintingPaths(
        hosts=(".elevenlabs.io",),
        writes=("/single-use-token/*", "/service-accounts/*/api-keys", "/workspace/invites/add"),
        any_method=(
            "/convai/conversation/get-signed-url",
            "/convai/conversation/get_signed_url",
            "/convai/conversation/token",
        ),
    ),
    # https://developers.deepgram.com/docs/token-based-authentication
    "deepgram": MintingPaths(hosts=("api.deepgram.com",), writes=("/auth/grant", "/projects/*/keys")),
    # https://assemblyai.com/docs/streaming/authenticate-with-a-temporary-token
    "assemblyai": MintingPaths(hosts=(".assemblyai.com",), any_method=("/token", "/realtime/token")),
    # https://assemblyai.com/docs/temporary-tokens: these hosts do nothing else
    "assemblyai-tokens": MintingPaths(
        hosts=("token.assemblyai.com", "token.eu.assemblyai.com", "token.us.assemblyai.com"), writes=("",)
    ),
    # https://soniox.com/docs/guides/temporary-api-keys
    "soniox": MintingPaths(hosts=(".soniox.com",), writes=("/auth/temporary-api-key",)),
    # https://docs.speechmatics.com/get-started/authentication
    "speechmatics": MintingPaths(hosts=("mp.speechmatics.com",), writes=("/api_keys",)),
    # https://docs.inworld.ai/portal/ephemeral-tokens
    "inworld": MintingPaths(
        hosts=("api.inworld.ai",), writes=("/auth/v1/tokens", "/sessiontokens/token:generate", "/sessiontokens/token")
    ),
    # https://dev.hume.ai/docs/introduction/api-key
    "hume": MintingPaths(hosts=("api.hume.ai",), writes=("/oauth2-cc/token",)),
    # https://docs.fal.ai/real-time/secrets
    "fal": MintingPaths(hosts=(".fal.ai", ".fal.run", "fal.run"), writes=("/tokens", "/tokens/realtime")),
    # https://www.alibabacloud.com/help/en/model-studio/generate-temporary-api-key
    "alibaba": MintingPaths(hosts=(".aliyuncs.com",), writes=("/tokens",)),
    # https://deepinfra.com/docs/advanced/scoped_jwt. Its list of API tokens contains them.
    "deepinfra": MintingPaths(
        hosts=("api.deepinfra.com",), writes=("/scoped-jwt",), any_method=("/api-tokens", "/api-tokens/*")
    ),
    # https://docs.tavily.com/documentation/enterprise/api-key-generator
    "tavily": MintingPaths(hosts=("api.tavily.com",), writes=("/generate-keys",)),
    # https://docs.exa.ai/reference/team-management/create-api-key
    "exa": MintingPaths(hosts=(".exa.ai",), writes=("/team-management/api-keys",)),
    # https://docs.github.com/en/rest/apps/apps, …/rest/apps/oauth-applications
    "github": MintingPaths(
        hosts=("api.github.com", "models.github.ai"),
        writes=("/app/installations/*/access_tokens", "/applications/*/token", "/applications/*/token/scoped"),
    ),
    # https://huggingface.co/docs/xet/auth
    "huggingface": MintingPaths(
        hosts=("huggingface.co", ".huggingface.co"),
        writes=("/oauth/token",),
        any_method=("/xet-read-token/*", "/xet-write-token/*", "/spaces/*/*/jwt"),
    ),
}


def paths_of(provider: str, host: str) -> list[MintingPaths]:
    """Return what mints at a destination: by its host, and by `provider` if people enter the host themselves."""
    return [
        paths
        for slug, paths in MINTING_PATHS.items()
        if slug == provider or any(_is_host(host, pattern) for pattern in paths.hosts)
    ]


def _is_host(host: str, pattern: str) -> bool:
    return host.endswith(pattern) if pattern.startswith(".") else host == pattern
