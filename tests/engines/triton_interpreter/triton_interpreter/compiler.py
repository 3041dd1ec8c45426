"""Compiles nothing."""

from triton.backends.compiler import BaseBackend


class InterpreterBackend(BaseBackend):
    @staticmethod
    def supports_target(target):
        return target.backend == "interpreter"

    def _refuse(self, *args, **kwargs):
        raise RuntimeError("this backend compiles nothing: set TRITON_INTERPRET=1")

    parse_options = add_stages = _refuse

    def hash(self):
        return "interpreter"

    def load_dialects(self, context): ...

    def get_module_map(self):
        return {}
