"""What `import bottlenecks` promises."""

import inspect

import bottlenecks as bn


def functions_and_classes():
    found = [(name, getattr(bn, name)) for name in bn.__all__ if name != "gaussian"]
    return found + [
        (name, f)
        for name, f in vars(bn.gaussian).items()
        if inspect.isfunction(f) and name[0] != "_"
    ]


def test_all_is_what_there_is():
    public = {
        name
        for name, value in vars(bn).items()
        if not name.startswith("_") and not inspect.ismodule(value)
    }
    assert set(bn.__all__) - {"gaussian"} == public
    assert len(bn.__all__) == len(set(bn.__all__))


def test_every_name_says_what_it_is():
    for name, value in functions_and_classes():
        text = inspect.getdoc(value)
        assert text, name
        if inspect.isclass(value):
            # A result: each field is described.
            assert "Attributes:" in text, name
            assert all(f"{field}:" in text for field in value._fields), name


def test_options_are_keyword_only():
    for name, value in functions_and_classes():
        if inspect.isclass(value):
            continue
        for parameter in inspect.signature(value).parameters.values():
            if parameter.default is not inspect.Parameter.empty:
                positional = parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
                assert not positional, f"{name}({parameter.name})"
