"""Settings: what wins over what, what is refused and in which words, and that config.yaml tells the truth."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from pydantic import SecretStr, ValidationError

from server.described import Described, descriptions
from server.settings import (
    EncoderSettings,
    IndexSettings,
    PassageSettings,
    Settings,
    SettingsError,
    load_settings,
    setting_fields,
    variable_name,
)

REPOSITORY = Path(__file__).resolve().parents[1]
SECRET = "correct-horse-battery"


@pytest.fixture
def config(tmp_path, monkeypatch):
    """Writes config.yaml into an empty working directory and returns its path."""
    monkeypatch.chdir(tmp_path)

    def write(text: str | bytes, name: str = "config.yaml") -> Path:
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def problems_of(config_file: Path | None = None, environ: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(SettingsError) as raised:
        load_settings(config_file, environ or {})
    assert str(raised.value) == "\n".join(raised.value.problems)
    return list(raised.value.problems)


def commented_settings(text: str) -> dict[str, tuple[str, object]]:
    """The comment right above each setting of a YAML file, joined to one line, and the setting's value."""
    found: dict[str, tuple[str, object]] = {}
    section, comment = "", []
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith("#"):
            comment.append(stripped.removeprefix("#").strip())
            continue
        if stripped and not line.startswith(" "):
            section = ""
        if stripped.endswith(":"):
            section = stripped.removesuffix(":") + "."
        elif stripped:
            [(option, value)] = yaml.safe_load(stripped).items()
            found[section + option] = (" ".join(comment), value)
        comment = []
    return found


def setting_descriptions():
    found = descriptions(Settings)
    for name, field in Settings.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Described):
            found |= {f"{name}.{option}": text for option, text in descriptions(field.annotation).items()}
    return found


def test_config_yaml_shows_every_setting_in_order_at_its_default_under_its_description():
    shown = commented_settings((REPOSITORY / "config.yaml").read_text(encoding="utf-8"))
    defaults = Settings().model_dump(mode="json")
    expected, described = {}, setting_descriptions()
    for key in setting_fields():
        section, _, option = key.rpartition(".")
        value = defaults[section][option] if section else defaults[option]
        expected[key] = (" ".join(described[key].split()), value)
    assert shown == expected
    assert list(shown) == list(expected)


def test_every_setting_has_a_description():
    described = setting_descriptions()
    assert [key for key in setting_fields() if not described.get(key)] == []


def test_the_config_yaml_that_comes_with_twopass_means_the_same_as_no_file(config):
    from_file = load_settings(REPOSITORY / "config.yaml", {})
    assert from_file == load_settings(None, {}) == Settings()
    assert from_file.index.prefix_dim_for(128) == Settings().index.prefix_dim_for(128) == 128


def test_the_defaults_are_those_of_the_design():
    settings = Settings()
    assert settings.data_dir == Path("data")
    assert (settings.server.host, settings.server.port) == ("127.0.0.1", 8000)
    assert settings.server.api_key.get_secret_value() == ""
    assert settings.server.shutdown_grace_s == 10
    assert settings.encoder == EncoderSettings(model="bundled", dim=None, batch_tokens=1024)
    assert (settings.encoder.backend, settings.encoder.precision) == ("auto", "float32")
    assert (settings.encoder.idle_unload_s, settings.encoder.url) == (0, "")
    assert settings.passages == PassageSettings(max_tokens=0, overlap_tokens=32)
    assert (settings.index.prefix_dim, settings.index.oversample) == (256, 8.0)
    assert (settings.index.min_candidates, settings.index.vector_dtype) == (80, "float16")
    assert settings.index.check_on_open == "newest"
    assert (settings.index.order, settings.index.kind, settings.index.codec) == ("auto", "auto", "auto")
    assert (settings.index.target_recall, settings.index.memory_budget) == (0.99, 0)
    assert (settings.index.bounds, settings.index.max_read) == ("keep", 4096)
    assert settings.limits.model_dump() == {
        "body_bytes": 33554432,
        "documents_per_request": 10000,
        "searches_per_batch": 100,
        "k": 1000,
        "text_bytes": 8388608,
        "query_bytes": 65536,
        "concurrent_requests": 1000,
        "connections": 2000,
        "silence_s": 60,
        "waiting_requests": 256,
        "metadata_bytes": 65536,
        "filter_depth": 8,
        "filter_conditions": 100,
        "filter_values": 1000,
    }
    assert settings.index.metadata_indexes == ()
    assert (settings.log.level, settings.log.format) == ("info", "text")


def test_the_environment_beats_the_file_and_the_command_line_beats_both(config):
    config("server: {host: 10.0.0.1, port: 7001, shutdown_grace_s: 3}\n")
    environ = {"TWOPASS_SERVER__HOST": "10.0.0.2", "TWOPASS_SERVER__PORT": "7002", "PATH": "/bin"}
    settings = load_settings(None, environ, {"server.host": "10.0.0.3"})
    assert settings.server.host == "10.0.0.3"
    assert settings.server.port == 7002
    assert settings.server.shutdown_grace_s == 3


def test_a_setting_of_every_section_can_come_from_its_environment_variable(config):
    environ = {
        "TWOPASS_DATA_DIR": "/srv/twopass",
        "TWOPASS_SERVER__API_KEY": SECRET,
        "TWOPASS_ENCODER__MODEL": "none",
        "TWOPASS_ENCODER__DIM": "768",
        "TWOPASS_PASSAGES__OVERLAP_TOKENS": "0",
        "TWOPASS_INDEX__OVERSAMPLE": "2.5",
        "TWOPASS_LIMITS__K": "50",
        "TWOPASS_LOG__LEVEL": "WARNING",
    }
    settings = load_settings(None, environ)
    assert settings.data_dir == Path("/srv/twopass")
    assert settings.server.api_key == SecretStr(SECRET)
    assert (settings.encoder.model, settings.encoder.dim) == ("none", 768)
    assert settings.passages.overlap_tokens == 0
    assert settings.index.oversample == 2.5
    assert settings.limits.k == 50
    assert settings.log.level == "warning"


def test_the_file_is_the_named_one_else_that_of_twopass_config_else_config_yaml(config):
    config("server: {port: 1}")
    by_variable = config("server: {port: 2}", "variable.yaml")
    by_name = config("server: {port: 3}", "named.yaml")
    environ = {"TWOPASS_CONFIG": str(by_variable)}
    assert load_settings(by_name, environ).server.port == 3
    assert load_settings(None, environ).server.port == 2
    assert load_settings(None, {"TWOPASS_CONFIG": ""}).server.port == 1


def test_a_directory_without_config_yaml_gives_the_defaults(config):
    assert load_settings(None, {}) == Settings()


@pytest.mark.parametrize("text", ["", "# nothing\n", "server:\n  # port: 9000\nlog:\n"])
def test_a_file_or_section_of_nothing_but_comments_gives_the_defaults(config, text):
    config(text)
    assert load_settings(None, {}) == Settings()


def test_the_variables_of_the_client_commands_are_not_settings(config):
    environ = {"TWOPASS_URL": "http://nas:8000", "TWOPASS_API_KEY": SECRET}
    assert load_settings(None, environ) == Settings()


def test_a_data_dir_in_the_home_folder_is_found(config, monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    config("data_dir: ~/twopass\n")
    assert load_settings(None, {}).data_dir == Path("/home/ada/twopass")


@pytest.mark.parametrize(
    ("text", "unknown", "nearest"),
    [
        ("server: {prt: 8000}", "server.prt", "server.port"),
        ("port: 8000", "port", "server.port"),
        ("sever: {port: 8000}", "sever", "server"),
        ("data: here", "data", "data_dir"),
        ("index: {vector_type: float32}", "index.vector_type", "index.vector_dtype"),
        ("encoder: {batch: 1}", "encoder.batch", "encoder.batch_tokens"),
        ("log: {7: x}", "log.7", "log.level"),
    ],
)
def test_an_unknown_key_in_the_file_is_refused_with_the_nearest_valid_one(config, text, unknown, nearest):
    path = config(text)
    assert problems_of(path) == [f"{path}: there is no setting {unknown}. The nearest is {nearest}."]


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("TWOPASS_SERVER__PRT", "TWOPASS_SERVER__PORT"),
        ("TWOPASS_PORT", "TWOPASS_SERVER__PORT"),
        ("TWOPASS_SERVER_PORT", "TWOPASS_SERVER__PORT"),
        ("twopass_server__port", "TWOPASS_SERVER__PORT"),
        ("TWOPASS_DATADIR", "TWOPASS_DATA_DIR"),
        ("TWOPASS_MODEL", "TWOPASS_ENCODER__MODEL"),
    ],
)
def test_an_unknown_variable_is_refused_with_the_nearest_valid_one(config, name, nearest):
    expected = f"environment: there is no setting {name}. The nearest is {nearest}."
    assert problems_of(environ={name: "1"}) == [expected]


@pytest.mark.parametrize(
    ("key", "value", "valid"),
    [
        ("server.port", "70000", "a whole number from 0 to 65535"),
        ("server.port", "http", "a whole number from 0 to 65535"),
        ("server.port", "80.5", "a whole number from 0 to 65535"),
        ("server.host", "", "a text that is not empty (in quotes where YAML would take it for a number)"),
        ("encoder.batch_tokens", "0", "a whole number from 1 to 1048576"),
        ("index.prefix_dim", "16385", "a whole number from 1 to 16384"),
        ("index.oversample", "0.5", "a number from 1 to 1000"),
        ("index.oversample", "nan", "a number from 1 to 1000"),
        ("index.oversample", "inf", "a number from 1 to 1000"),
        ("index.vector_dtype", "float64", "'float16' or 'float32'"),
        ("index.check_on_open", "none", "'newest' or 'all'"),
        ("index.order", "corpse", "'auto' or 'model' or 'corpus'"),
        ("index.kind", "hnsw", "'auto' or 'flat' or 'ivf'"),
        ("index.codec", "PQ4", "'auto' or 'float32' or 'float16' or 'int8' or 'pq4' or 'rabitq'"),
        ("index.bounds", "maybe", "'keep' or 'none'"),
        ("index.target_recall", "0.4", "a number from 0.5 to 1"),
        ("index.target_recall", "99", "a number from 0.5 to 1"),
        ("index.max_read", "0", "a whole number from 1 to 10000000"),
        ("limits.filter_depth", "17", "a whole number from 1 to 16"),
        ("index.memory_budget", "lots", "a number of bytes, or one with a unit, as in 512M or 2GiB"),
        ("index.memory_budget", "2 parsecs", "a number of bytes, or one with a unit, as in 512M or 2GiB"),
        ("index.memory_budget", "-512M", "a number of bytes, or one with a unit, as in 512M or 2GiB"),
        ("index.memory_budget", "", "a number of bytes, or one with a unit, as in 512M or 2GiB"),
        ("limits.k", "-1", "a whole number from 1 to 100000"),
        ("log.format", "xml", "'text' or 'json'"),
    ],
)
def test_a_bad_value_is_refused_with_source_setting_value_and_what_is_valid(config, key, value, valid):
    name = variable_name(key)
    expected = f"environment variable {name}: {key} can't be {value!r}; it takes {valid}."
    assert problems_of(environ={name: value}) == [expected]


@pytest.mark.parametrize("text", ["index: {metadata_indexes: [year, author.name]}", ""])
def test_metadata_indexes_are_a_list_in_the_file_and_have_commas_in_a_variable(config, text):
    config(text)
    environ = {} if text else {"TWOPASS_INDEX__METADATA_INDEXES": "year, author.name,"}
    assert load_settings(None, environ).index.metadata_indexes == ("year", "author.name")


def test_metadata_indexes_that_are_no_list_of_names_are_refused(config):
    path = config("index: {metadata_indexes: {year: 1}}")
    expected = (
        "index.metadata_indexes can't be {'year': 1}; it takes a list of names, in a variable with commas"
    )
    assert problems_of(path) == [f"{path}: {expected} between them."]


def test_a_bad_value_in_the_file_names_the_file(config):
    path = config("index:\n  oversample: lots\n")
    assert problems_of(path) == [
        f"{path}: index.oversample can't be 'lots'; it takes a number from 1 to 1000."
    ]


@pytest.mark.parametrize(
    ("given", "n_bytes"),
    [
        ("0", 0),
        ("512M", 512_000_000),
        ("512MiB", 512 << 20),
        ("2GiB", 2 << 30),
        ("1.5 gb", 1_500_000_000),
        ("536870912", 512 << 20),
    ],
)
def test_a_memory_budget_has_a_unit_or_is_in_bytes(config, given, n_bytes):
    assert load_settings(None, {"TWOPASS_INDEX__MEMORY_BUDGET": given}).index.memory_budget == n_bytes
    config(f"index: {{memory_budget: {given}}}")
    assert load_settings(None, {}).index.memory_budget == n_bytes


def test_a_memory_budget_whose_unit_was_forgotten_is_refused(config):
    assert problems_of(environ={"TWOPASS_INDEX__MEMORY_BUDGET": "512"}) == [
        "environment variable TWOPASS_INDEX__MEMORY_BUDGET: index.memory_budget can't be '512': that is 512 bytes, "
        "too few for any collection; write a unit, as in 512M or 2GiB."
    ]
    path = config("index: {memory_budget: -1}")
    assert problems_of(path) == [
        f"{path}: index.memory_budget can't be -1; it takes a number of bytes, or one with a unit, as in 512M or 2GiB."
    ]


def test_the_nearest_name_of_the_memory_budget_is_found():
    assert problems_of(environ={"TWOPASS_MEMORY_BUDGET": "1G"}) == [
        "environment: there is no setting TWOPASS_MEMORY_BUDGET. The nearest is TWOPASS_INDEX__MEMORY_BUDGET."
    ]


def test_lists_with_a_codec_that_has_none_are_refused(config):
    path = config("index: {kind: ivf, codec: int8}")
    assert problems_of(path) == [
        f"{path}: index.kind is 'ivf', which needs index.codec 'pq4' or 'rabitq', not 'int8'. "
        "Set one of the two to 'auto'."
    ]
    for codec in ("auto", "pq4", "rabitq"):
        assert IndexSettings(kind="ivf", codec=codec).codec == codec


@pytest.mark.parametrize(
    ("encoder", "problem"),
    [
        (
            "backend: openai, model: m",
            "encoder.backend is 'openai', which needs encoder.url: where does it listen?",
        ),
        (
            "backend: onnx, model: m, url: 'http://127.0.0.1:1'",
            "encoder.url is set, but encoder.backend 'onnx' runs the model here. Remove one of the two.",
        ),
        (
            "url: 'http://127.0.0.1:1'",
            "encoder.url is set, but encoder.model is 'bundled'. Set it to the name that the program there knows the "
            "model by.",
        ),
        (
            "backend: torch, precision: int8",
            "encoder.precision 'int8' is for ONNX Runtime: set encoder.backend to 'auto' or 'onnx'.",
        ),
    ],
)
def test_settings_of_the_encoder_that_contradict_each_other_are_refused(config, encoder, problem):
    assert problems_of(path := config(f"encoder: {{{encoder}}}")) == [f"{path}: {problem}"]


def test_a_password_in_an_address_is_refused_and_not_repeated(config):
    path = config("encoder: {model: m, url: 'http://me:pass-word@127.0.0.1:1/v1'}")
    [problem] = problems_of(path)
    assert "encoder.api_key" in problem and "pass-word" not in problem
    config("encoder: {model: m, url: 'http://127.0.0.1:1/v1/@'}")
    assert load_settings(None, {}).encoder.is_remote


def test_a_prompt_keeps_its_last_space(config):
    config('encoder: {query_prompt: "query: "}')
    assert load_settings(None, {}).encoder.query_prompt == "query: "
    assert load_settings(None, {"TWOPASS_ENCODER__QUERY_PROMPT": "ask: "}).encoder.query_prompt == "ask: "


def test_yes_is_not_port_1(config):
    path = config("server: {port: yes}")
    assert problems_of(path) == [
        f"{path}: server.port can't be True; it takes a whole number from 0 to 65535."
    ]


def test_an_empty_data_dir_is_refused_rather_than_read_as_the_working_directory(config):
    expected = "environment variable TWOPASS_DATA_DIR: data_dir can't be '': a folder name can't be empty."
    assert problems_of(environ={"TWOPASS_DATA_DIR": ""}) == [expected]


def test_every_number_has_a_lower_and_an_upper_bound():
    for key, field in setting_fields().items():
        if field.annotation in (int, float, int | None):
            bounds = {type(bound).__name__ for bound in field.metadata}
            assert {"Ge", "Le"} <= bounds, key


def test_everything_that_is_wrong_is_said_at_once(config):
    path = config("server: {port: 99999}\nlogs: {level: info}\n")
    assert problems_of(path, {"TWOPASS_LIMITS__K": "0"}) == [
        f"{path}: there is no setting logs. The nearest is log.",
        f"{path}: server.port can't be 99999; it takes a whole number from 0 to 65535.",
        "environment variable TWOPASS_LIMITS__K: limits.k can't be '0'; "
        "it takes a whole number from 1 to 100000.",
    ]


def test_model_none_needs_a_dim(config):
    expected = (
        "environment variable TWOPASS_ENCODER__MODEL: encoder.model is 'none', so clients bring the vectors: "
        "set encoder.dim to their number of dimensions."
    )
    assert problems_of(environ={"TWOPASS_ENCODER__MODEL": "none"}) == [expected]


def test_a_dim_beside_a_real_model_is_refused(config):
    path = config("encoder: {dim: 384}")
    assert problems_of(path) == [
        f"{path}: encoder.dim is 384, but the model 'bundled' has its own number of dimensions. "
        "Remove encoder.dim, or set encoder.model to 'none' if clients bring the vectors."
    ]


def test_an_empty_dim_variable_means_no_dim(config):
    assert load_settings(None, {"TWOPASS_ENCODER__DIM": ""}).encoder.dim is None


def test_an_overlap_of_more_than_half_a_passage_is_refused(config):
    path = config("passages: {max_tokens: 64, overlap_tokens: 33}")
    assert problems_of(path) == [
        f"{path}: passages.overlap_tokens is 33, more than half of passages.max_tokens, 64. "
        "Lower the first or raise the second."
    ]
    assert PassageSettings(max_tokens=64, overlap_tokens=32).overlap_tokens == 32
    assert PassageSettings(max_tokens=0, overlap_tokens=500).overlap_tokens == 500


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "server: [1",
            "{path}, line 1, column 11: is not valid YAML (expected ',' or ']', but got '<stream end>')",
        ),
        ("- a\n- b\n", "{path}: must hold lines like `data_dir: data`, not a list."),
        ("data_dir: 2026-13-01", "{path}: is not valid YAML. Check indentation"),
        ("just words", "{path}: must hold lines like `data_dir: data`, not a str."),
        ("server: 8000\n", "{path}: server is a section; its options go below it, indented."),
        (
            "server:\n  port: 1\n  port: 2\n",
            "{path}, line 3, column 3: is not valid YAML (the key port stands there a second time).",
        ),
        (
            "server.port: 1\nserver: {port: 2}\n",
            "{path}: server.port stands there twice. Remove one of them.",
        ),
        (b"data_dir: caf\xe9\n", "{path}: is not UTF-8 text (byte 13). Save it as UTF-8."),
    ],
)
def test_a_file_that_is_not_a_settings_file_is_refused_with_the_place(config, text, expected):
    path = config(text)
    [problem] = problems_of(path)
    if "but got" in expected:  # a detail in quotes may be a piece of the file, so it is left out
        expected = "{path}, line 1, column 11: is not valid YAML. Check indentation"
    assert problem.startswith(expected.format(path=path))


def test_a_named_file_that_is_not_there_or_is_a_folder_is_refused(config, tmp_path):
    missing = tmp_path / "missing.yaml"
    expected = f"{missing}: there is no such file. Name another with --config or TWOPASS_CONFIG."
    assert problems_of(missing) == [expected]
    assert problems_of(environ={"TWOPASS_CONFIG": str(missing)}) == [expected]
    assert problems_of(tmp_path) == [f"{tmp_path}: can't be read: Is a directory."]


@pytest.mark.parametrize(
    "text",
    [
        f"server: {{api_key: '{SECRET} 2'}}",  # a space inside
        f"server: {{api_key: [{SECRET}]}}",  # not a text
        f"server: {{apikey: {SECRET}}}",  # unknown key
        f"server: {{api_key: {SECRET}, port: x}}",  # another value is bad
        f"server: {{api_key: *{SECRET}}}",  # YAML: an alias to nothing
        f"server: {{api_key: !{SECRET} x}}",  # YAML: an unknown tag
        f"server: {{api_key: '{SECRET}}}",  # YAML: a quote that never ends
    ],
)
def test_the_api_key_is_in_no_error_nor_in_its_traceback(config, text):
    with pytest.raises(SettingsError) as raised:
        load_settings(config(text), {})
    error: BaseException | None = raised.value
    while error is not None:
        assert SECRET not in str(error) and SECRET not in repr(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def test_the_api_key_is_in_no_repr_and_no_dump():
    settings = Settings.model_validate({"server": {"api_key": SECRET}})
    assert SECRET not in repr(settings)
    assert SECRET not in str(settings.model_dump(mode="json"))
    assert settings.server.api_key.get_secret_value() == SECRET


def test_settings_are_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        Settings().server.port = 1


def test_prefix_dim_left_at_its_default_takes_a_shorter_vector_whole():
    assert IndexSettings().prefix_dim_for(768) == 256
    assert IndexSettings().prefix_dim_for(256) == 256
    assert IndexSettings().prefix_dim_for(100) == 100
    assert IndexSettings(prefix_dim=64).prefix_dim_for(100) == 64


def test_prefix_dim_above_the_vectors_dimensions_is_refused():
    expected = (
        r"^index\.prefix_dim is 512, but the vectors have 384 dimensions\. "
        r"Set it to a number from 1 to 384, or remove it\.$"
    )
    with pytest.raises(SettingsError, match=expected):
        IndexSettings(prefix_dim=512).prefix_dim_for(384)


def test_importing_settings_reads_nothing(tmp_path):
    (tmp_path / "config.yaml").write_text("nonsense: [")
    code = "import server.settings as s; print([n for n, v in vars(s).items() if isinstance(v, s._Section)])"
    environ = {"PYTHONPATH": str(REPOSITORY), "TWOPASS_NONSENSE": "1", "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environ, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")
