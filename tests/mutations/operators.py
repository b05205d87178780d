"""Small random edits of Python code, as programmers make by mistake."""

from __future__ import annotations

import ast
import copy
from collections import defaultdict
from dataclasses import dataclass

COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.FloorDiv: ast.Mult,
    ast.Div: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}
CALLS = {"min": "max", "max": "min", "any": "all", "all": "any"}

Positioned = ast.expr | ast.stmt | ast.excepthandler | ast.keyword


@dataclass(frozen=True)
class Edit:
    """One edit of a source text: the characters from `start` to `end` become `text`."""

    line: int
    start: int
    end: int
    text: str
    summary: str

    def apply(self, source: str) -> str:
        return source[: self.start] + self.text + source[self.end :]

    def is_valid(self, source: str) -> bool:
        """False if the result is no Python, or the same program."""
        try:
            mutant = ast.parse(self.apply(source))
        except SyntaxError:
            return False
        return ast.dump(mutant) != ast.dump(ast.parse(source))


def edits(source: str) -> dict[int, list[Edit]]:
    """Return every edit of a module by line. Docstrings, imports, annotations and texts with spaces stay."""
    finder = _Finder(source)
    finder.visit(ast.parse(source))
    by_line: dict[int, list[Edit]] = defaultdict(list)
    for edit in finder.found:
        by_line[edit.line].append(edit)
    return by_line


class _Finder(ast.NodeVisitor):
    def __init__(self, source: str) -> None:
        self.found: list[Edit] = []
        self._source = source
        lines = source.splitlines(keepends=True)
        self._encoded = [line.encode() for line in lines]
        self._offsets = [0]
        for line in lines:
            self._offsets.append(self._offsets[-1] + len(line))

    # --- Positions -------------------------------------------------------------------------------------------------

    def _offset(self, line: int, column: int) -> int:
        """Turn a position of `ast`, which counts bytes, into an index of the source."""
        return self._offsets[line - 1] + len(self._encoded[line - 1][:column].decode())

    def _span(self, node: Positioned) -> tuple[int, int]:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self._offset(node.lineno, node.col_offset), self._offset(node.end_lineno, node.end_col_offset)

    def _replace(self, node: Positioned, text: str, summary: str) -> None:
        start, end = self._span(node)
        self.found.append(Edit(node.lineno, start, end, text, summary))

    # --- What stays ------------------------------------------------------------------------------------------------

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        for decorator in node.decorator_list:
            start, end = self._span(decorator)
            self.found.append(Edit(decorator.lineno, start, end, "(lambda it: it)", "remove the decorator"))
        defaults = [default for default in node.args.kw_defaults if default is not None]
        for child in [*node.decorator_list, *node.args.defaults, *defaults]:
            self.visit(child)
        self._visit_body(node.body)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self.visit_FunctionDef(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        for child in [*node.decorator_list, *node.keywords]:
            self.visit(child)
        self._visit_body(node.body)

    def visit_Module(self, node: ast.Module) -> None:
        self._visit_body(node.body)

    def visit_Import(self, node: ast.Import) -> None:
        pass

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        pass

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        pass  # positions inside f-strings are unreliable before Python 3.12

    def _visit_body(self, body: list[ast.stmt]) -> None:
        is_documented = body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant)
        for statement in body[1:] if is_documented else body:
            self.visit(statement)

    # --- Statements ------------------------------------------------------------------------------------------------

    def visit_If(self, node: ast.If) -> None:
        if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return
        self._negate(node.test)
        self.generic_visit(node)

    def visit_While(self, node: ast.While) -> None:
        self._negate(node.test)
        self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self._negate(node.test)
        self.generic_visit(node)

    def _negate(self, test: ast.expr) -> None:
        self._replace(test, f"(not ({ast.unparse(test)}))", "negate the condition")

    def visit_Return(self, node: ast.Return) -> None:
        if node.value is not None and not (isinstance(node.value, ast.Constant) and node.value.value is None):
            self._replace(node.value, "None", "return None")
        self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> None:
        if not isinstance(node.value, ast.Yield | ast.YieldFrom | ast.Constant):
            self._replace(node, "pass", "drop the statement")
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self._replace(node, "pass", "drop the statement")
        self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        # Without the assignment to a name, the code fails at once.
        if not all(isinstance(target, ast.Name) for target in node.targets):
            self._replace(node, "pass", "drop the statement")
        self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> None:
        self._replace(node, "pass", "drop the statement")

    def visit_Continue(self, node: ast.Continue) -> None:
        self._replace(node, "break", "break instead of continue")

    def visit_Break(self, node: ast.Break) -> None:
        self._replace(node, "continue", "continue instead of break")

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        first, last = node.body[0], node.body[-1]
        if not isinstance(first, ast.Raise):
            self.found.append(Edit(first.lineno, self._span(first)[0], self._span(last)[1], "raise", "re-raise"))
        self.generic_visit(node)

    def visit_With(self, node: ast.With | ast.AsyncWith) -> None:
        if all(item.optional_vars is None for item in node.items):
            start = self._span(node)[0]
            end = self._source.index(":\n", self._span(node.items[-1].context_expr)[1])
            self.found.append(Edit(node.lineno, start, end, "if True", "drop the context manager"))
        self.generic_visit(node)

    def visit_AsyncWith(self, node: ast.AsyncWith) -> None:
        self.visit_With(node)

    # --- Expressions -----------------------------------------------------------------------------------------------

    def visit_Compare(self, node: ast.Compare) -> None:
        for index, operator in enumerate(node.ops):
            mutant = copy.deepcopy(node)
            mutant.ops[index] = COMPARISONS[type(operator)]()
            self._replace(node, f"({ast.unparse(mutant)})", "change the comparison")
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        mutant = copy.deepcopy(node)
        mutant.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        self._replace(node, f"({ast.unparse(mutant)})", "swap and/or")
        for index in range(len(node.values)):
            shorter = copy.deepcopy(node)
            del shorter.values[index]
            text = ast.unparse(shorter if len(shorter.values) > 1 else shorter.values[0])
            self._replace(node, f"({text})", f"drop operand {index + 1}")
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, ast.Not | ast.USub):
            self._replace(node, f"({ast.unparse(node.operand)})", "drop the operator")
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        if other := ARITHMETIC.get(type(node.op)):
            mutant = copy.deepcopy(node)
            mutant.op = other()
            self._replace(node, f"({ast.unparse(mutant)})", "change the arithmetic")
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        value = node.value
        if isinstance(value, bool):
            self._replace(node, repr(not value), "swap True/False")
        elif isinstance(value, int | float):
            self._replace(node, repr(value + 1), "add 1")
            self._replace(node, f"({value - 1!r})", "subtract 1")
        elif isinstance(value, str) and " " not in value:
            self._replace(node, repr(value + "x"), "change the text")
        elif isinstance(value, bytes) and b" " not in value:
            self._replace(node, repr(value + b"x"), "change the text")

    def visit_Call(self, node: ast.Call) -> None:
        if isinstance(node.func, ast.Name) and node.func.id in CALLS:
            self._replace(node.func, CALLS[node.func.id], "call the opposite")
        for index, keyword in enumerate(node.keywords):
            if keyword.arg is not None:
                mutant = copy.deepcopy(node)
                del mutant.keywords[index]
                self._replace(node, ast.unparse(mutant), f"drop the argument {keyword.arg}")
        self.generic_visit(node)

    def visit_Dict(self, node: ast.Dict) -> None:
        for index in range(len(node.keys)):
            mutant = copy.deepcopy(node)
            del mutant.keys[index], mutant.values[index]
            self._replace(node, ast.unparse(mutant), f"drop entry {index + 1}")
        self.generic_visit(node)

    def visit_Set(self, node: ast.Set) -> None:
        self._drop_elements(node)
        self.generic_visit(node)

    def visit_List(self, node: ast.List) -> None:
        self._drop_elements(node)
        self.generic_visit(node)

    def visit_Tuple(self, node: ast.Tuple) -> None:
        self._drop_elements(node)
        self.generic_visit(node)

    def _drop_elements(self, node: ast.Set | ast.List | ast.Tuple) -> None:
        if len(node.elts) < 2 or not all(isinstance(element, ast.Constant) for element in node.elts):
            return
        for index in range(len(node.elts)):
            mutant = copy.deepcopy(node)
            del mutant.elts[index]
            self._replace(node, ast.unparse(mutant), f"drop element {index + 1}")
