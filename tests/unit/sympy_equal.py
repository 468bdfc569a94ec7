"""A reward for one test: whether two formulas, written by the test itself, are equal to sympy."""


def sympy_equal(completion: str, task) -> float:
    import sympy

    difference = sympy.sympify(task.reference, rational=True) - sympy.sympify(completion, rational=True)
    return float(sympy.simplify(difference) == 0)
