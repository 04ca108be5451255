"""A check for schemathesis, which imports this module (SCHEMATHESIS_HOOKS): every error is in the one error shape."""

import schemathesis

PROBLEM = {"type", "title", "status", "detail", "code", "hint", "request_id"}
MORE = {"where", "errors", "error"}  # a field's place; several of them; once more as OpenAI's clients read it


@schemathesis.check
def one_error_shape(ctx, response, case):
    """application/problem+json with our fields, of the status and the request that the head says."""
    if response.status_code < 400 or case.method == "HEAD":
        return
    (media_type,) = response.headers["content-type"]
    assert media_type == "application/problem+json", media_type
    told = response.json()
    assert PROBLEM <= set(told) <= PROBLEM | MORE, sorted(told)
    assert all(told[name] for name in PROBLEM), told
    assert told["status"] == response.status_code
    assert [told["request_id"]] == list(response.headers["x-request-id"])
    assert ("error" in told) == case.formatted_path.startswith("/v1/")
