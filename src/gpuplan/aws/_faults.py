"""What AWS's error codes and botocore's exceptions mean: one table for each, read by `errors` alone.

A row says which of gpuplan's errors it is, why it is likely, and the fix, where `{profile}` becomes ` --profile NAME`.
Exceptions go by the names of their class and its bases, because older versions of botocore lack some of them.
"""

from __future__ import annotations

from dataclasses import dataclass

from gpuplan.core.errors import (
    CapacityError,
    CredentialsError,
    GpuplanError,
    ThrottledError,
    UnreachableError,
    UsageError,
)

WHO_AM_I = "aws sts get-caller-identity{profile}"
SSO_LOGIN = "aws sso login{profile}"
AGAIN = "the same command, in a minute"


@dataclass(frozen=True)
class Fault:
    """A kind of failure."""

    names: frozenset[str]
    """Error codes or class names."""
    error: type[GpuplanError]
    why: str
    fix: str = ""
    """Empty: what the caller advises, or what the message leads to."""
    quotes: bool = True
    """False: the message may hold what was signed, a session token among it, and is not shown."""


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


DENIED_CODES = _names(
    """AccessDenied AccessDeniedException UnauthorizedOperation UnauthorizedAccess UnauthorizedException NotAuthorized
    NotAuthorizedException AuthorizationError AuthorizationErrorException AuthorizationException Forbidden 403 401
    AllAccessDisabled KMS.AccessDeniedException"""
)
"""Codes of calls that no policy allows, or one denies."""

CODES = (
    Fault(
        _names("ExpiredToken ExpiredTokenException ExpiredIdentityToken TokenRefreshRequired"),
        CredentialsError,
        "the credentials have expired",
        f"{SSO_LOGIN}    or new keys, where AWS_ACCESS_KEY_ID holds them",
    ),
    Fault(
        _names(
            "SignatureDoesNotMatch InvalidSignatureException RequestTimeTooSkewed RequestExpired RequestInTheFuture"
        ),
        CredentialsError,
        "this machine's clock is off, or the secret key is not the one of the access key",
        f"timedatectl set-ntp true; {WHO_AM_I}",
        quotes=False,
    ),
    Fault(
        _names(
            """InvalidClientTokenId UnrecognizedClientException InvalidAccessKeyId InvalidToken AuthFailure
            InvalidSecurity MissingAuthenticationToken MissingAuthenticationTokenException InvalidIdentityToken
            IncompleteSignature OptInRequired SubscriptionRequiredException NotSignedUp AccountProblem"""
        ),
        CredentialsError,
        "the keys were deleted or mistyped, or the region or the service is not enabled for the account",
        f"aws configure{{profile}}; {WHO_AM_I}",
    ),
    Fault(
        _names(
            """ResourceLimitExceeded LimitExceeded LimitExceededException ServiceQuotaExceededException QuotaExceeded
            QuotaExceededException VcpuLimitExceeded InstanceLimitExceeded MaxSpotInstanceCountExceeded TooManyBuckets
            SpotMaxPriceTooLow InsufficientInstanceCapacity InsufficientCapacity InsufficientCapacityException
            InsufficientHostCapacity InsufficientCapacityOnHost"""
        ),
        CapacityError,
        "a quota of the account, or the capacity AWS has there, is too small",
    ),
    Fault(
        _names(
            """Throttling ThrottlingException ThrottledException Throttled RequestThrottled RequestThrottledException
            TooManyRequestsException 429 SlowDown RequestLimitExceeded BandwidthLimitExceeded EC2ThrottledException
            ProvisionedThroughputExceededException TransactionInProgressException PriorRequestNotComplete"""
        ),
        ThrottledError,
        "too many calls at once, by this account or in this region, and all attempts were turned away",
        AGAIN,
    ),
    Fault(
        _names(
            """RequestTimeout RequestTimeoutException IDPCommunicationError InternalFailure InternalError
            InternalServerError InternalServerException InternalServiceError InternalServiceException ServiceException
            ServiceUnavailable ServiceUnavailableException Unavailable"""
        ),
        UnreachableError,
        "AWS is failing, in all attempts; the call may have taken effect all the same",
        AGAIN,
    ),
)

CLASSES = (
    Fault(
        _names("ProfileNotFound"),
        CredentialsError,
        "neither ~/.aws/config nor ~/.aws/credentials has that profile",
        "aws configure list-profiles",
    ),
    Fault(
        _names("SSOError TokenRetrievalError NoAuthTokenError"),
        CredentialsError,
        "the SSO session has expired or was never begun",
        SSO_LOGIN,
    ),
    Fault(_names("LoginError"), CredentialsError, "the login session has ended", "aws login{profile}"),
    Fault(
        _names("NoCredentialsError PartialCredentialsError UnknownCredentialError"),
        CredentialsError,
        "neither the environment, the AWS configuration nor this machine's role gives complete credentials",
        "aws configure{profile}    or    aws sso login{profile}",
    ),
    Fault(
        _names("CredentialRetrievalError RefreshWithMFAUnsupportedError MetadataRetrievalError"),
        CredentialsError,
        "what should hand out the credentials did not",
        WHO_AM_I,
    ),
    Fault(
        _names("ConfigParseError ConfigNotFound InvalidConfigError"),
        UsageError,
        "the AWS configuration cannot be used as it is",
        "aws configure list{profile}",
    ),
    Fault(
        _names("InvalidRegionError NoRegionError UnknownRegionError BaseEndpointResolverError EndpointProviderError"),
        UsageError,
        "the region is misspelt, or AWS does not offer the service there",
        "add --region us-east-1",
    ),
    Fault(
        _names("ProxyConnectionError"),
        UnreachableError,
        "the proxy does not answer",
        "check HTTPS_PROXY, HTTP_PROXY and NO_PROXY",
    ),
    Fault(
        _names("SSLError"),
        UnreachableError,
        "the certificate is not trusted: a company's proxy often puts its own in between",
        "export AWS_CA_BUNDLE=/path/to/the/company/ca.pem",
    ),
    Fault(
        _names("EndpointConnectionError"),
        UnreachableError,
        "no network, a misspelt region, or AWS_ENDPOINT_URL leads nowhere",
        WHO_AM_I,
    ),
    Fault(
        _names(
            """ConnectionError HTTPClientError ResponseParserError ChecksumError FlexibleChecksumError WaiterError
            IncompleteReadError CapacityNotAvailableError UnseekableStreamError Boto3Error"""
        ),
        UnreachableError,
        "no usable answer came; the call may have taken effect all the same",
        AGAIN,
    ),
)
"""The first row that names the class or a base of it counts."""
