"""Requests to Amazon Bedrock: regions, the ARNs of models, and signatures (AWS Signature Version 4) by botocore.

Credentials come from the environment or a profile of the AWS command line; botocore keeps them in memory.
"""

import os
import re
from collections.abc import Callable
from functools import lru_cache, partial
from importlib.util import find_spec
from typing import Any

from rerank.errors import MissingPrerequisiteError, UsageError, ensure, error_repr
from rerank.installation import install_command
from rerank.io.forks import ForkLock

#: The region in an ARN, and in the name of a host.
_ARN = re.compile(r"arn:[\w-]+:\w+:([a-z0-9-]+):")
_HOST = re.compile(r"//(?:[\w.-]+\.)?bedrock-agent-runtime(?:-fips)?\.([a-z0-9-]+)\.")

_LOCK = ForkLock()


def find_region(model: str, url: str = "") -> str:
    """Return the region of a model's ARN, else of an address, the environment or the profile; empty if none has one."""
    named = _ARN.match(model) or _HOST.search(url)
    if named is not None:
        return named[1]
    stated = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if stated is None and find_spec("botocore"):
        stated = _ask_session(lambda session: session.get_config_variable("region"))
    if stated and not re.fullmatch(r"[a-z0-9-]+", stated):
        raise UsageError(f"The region of AWS is {error_repr(stated)}", expected="a name such as us-west-2")
    return stated or ""


def open_model(model: str, url: str) -> tuple[str, Callable[[str, bytes], dict[str, str]]]:
    """Return the ARN of a model that is named or has an ARN, and the function that signs requests to its address."""
    if not find_spec("botocore"):
        raise MissingPrerequisiteError(
            "botocore is not installed, but requests to Amazon Bedrock are signed with it",
            remedy=f"Run: {install_command('bedrock')}",
        )
    region = find_region(model, url)
    ensure(region, "The region of AWS is missing", expected="a name such as us-west-2 in the variable AWS_REGION")
    arn = model if model.startswith("arn:") else f"arn:aws:bedrock:{region}::foundation-model/{model}"
    return arn, partial(sign, region=region)


def sign(url: str, body: bytes, *, region: str) -> dict[str, str]:
    """Return the headers of a POST request of JSON that is signed now, including its content type."""
    from botocore.auth import SigV4Auth
    from botocore.awsrequest import AWSRequest

    found = _ask_session(lambda session: (one := session.get_credentials()) and one.get_frozen_credentials())
    if not found:
        raise UsageError(
            "There are no credentials of AWS",
            expected="AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment, or a profile (aws configure)",
        )
    request = AWSRequest("POST", url, headers={"Content-Type": "application/json"}, data=body)
    SigV4Auth(found, "bedrock", region).add_auth(request)
    return dict(request.headers.items())


def _ask_session(read: Callable[[Any], Any]) -> Any:
    """Call a function with botocore's session, which renews credentials; a change of the environment opens another."""
    from botocore.exceptions import BotoCoreError

    variables = tuple(sorted(item for item in os.environ.items() if item[0].startswith("AWS_")))
    try:
        with _LOCK.lock:  # sessions are not safe in several threads
            return read(_open_session(variables))
    except BotoCoreError as error:
        raise UsageError(f"The settings of AWS cannot be loaded: {error}", remedy="Check AWS_PROFILE") from error


@lru_cache(maxsize=1)
def _open_session(environment: tuple[tuple[str, str], ...]) -> Any:
    from botocore.session import Session

    return Session()
