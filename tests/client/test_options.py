"""What the client takes is what the schema has."""

import pytest

from aichats_client.options import ImageOptions, TextOptions
from aichats_schemas.requests import ImageRequest, TextRequest


@pytest.mark.parametrize(("options", "request_type"), [(TextOptions, TextRequest), (ImageOptions, ImageRequest)])
def test_every_option_of_a_request_can_be_asked_for_and_no_other(
    options: type[TextOptions | ImageOptions], request_type: type[TextRequest | ImageRequest]
) -> None:
    every_kind = {"messages", "model", "timeout", "metadata", "proxy"}
    assert set(options.__annotations__) - every_kind == set(request_type.option_names)
