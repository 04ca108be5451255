"""What can go wrong between a text and its vector.

`ModelNotFound`, `ModelDamaged` and `ModelNotSupported` come from `load_encoder`, the others from the encoder.
"""


class EncoderError(Exception):
    """The root. The message says what happened, `hint` what to do next."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class ModelNotFound(EncoderError):
    """The named model is neither here nor to be had."""


class ModelDamaged(EncoderError):
    """The model's files are incomplete or altered, or what it computes is no usable vector."""


class ModelNotSupported(EncoderError):
    """The model is whole, but needs something that twopass doesn't do, such as running its own code."""


class EncoderUnavailable(EncoderError):
    """The encoder is closed, or closed while the caller waited."""


class RemoteEncoderDown(EncoderUnavailable):
    """The program at encoder.url can't be reached, is too slow, or says that it can't answer now."""


class RemoteEncoderRefused(EncoderError):
    """The program at encoder.url answered, but not with vectors that can be used."""


class ExportFailed(EncoderError):
    """The model can't be made into an ONNX file, or that file's vectors are others than the model's own."""


class TorchMissing(EncoderError):
    """The model needs torch, to be exported or to run, and this is an installation without it."""


class EncodingStopped(EncoderError):
    """The caller's own `stop` asked for it; nothing of the call is returned."""


class EncodingFailed(EncoderError):
    """The model raised an error or gave a vector that is not finite; `__cause__` is its own error, if any."""


class TextNotEncodable(EncoderError):
    """One text of the call can't become a vector; `position` is its place in the caller's list."""

    def __init__(self, message: str, hint: str = "", position: int = 0) -> None:
        super().__init__(message, hint)
        self.position = position


def first_line(error: Exception) -> str:
    """A foreign error in one line: libraries add advice of their own that means nothing to our users."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__
