"""One exception for each code."""

import aichats_client
from aichats_client import ClientError, JobExists, ServiceError, errors
from aichats_schemas import ErrorCode, ErrorData
from aichats_schemas.events import Usage


def test_every_code_of_the_contract_has_a_class_of_its_own() -> None:
    for code in ErrorCode:
        error = errors.service_error(ErrorData(code=code, message="m", retryable=False), "r1")
        assert type(error) is not ServiceError, code
        assert type(error).known_code == code
        assert str(error) == f"{code}: m"


def test_every_class_is_public_and_stands_in_the_tree_or_below_its_last_line() -> None:
    for service in errors.ServiceError.__subclasses__():
        assert getattr(aichats_client, service.__name__) is service
    for each in errors.ClientError.__subclasses__():
        assert each is aichats_client.ContextError or f"── {each.__name__} " in str(errors.__doc__)


def test_every_failure_says_what_was_used_where_somebody_counted() -> None:
    usage = Usage(input_tokens=3, output_tokens=4, estimated=False)
    failures: list[ClientError] = [
        JobExists("order-7"),
        errors.Stalled("silence"),
        errors.service_error(ErrorData(code="interrupted", message="m", retryable=True, usage=usage)),
    ]
    assert [error.usage for error in failures] == [None, None, usage]
