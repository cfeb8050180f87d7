"""What the endpoint's chart renders, as Helm renders it, held against what reads it.

We test these aspects:
- `helm lint --strict` is content, and generated files fit their sources;
- every variant is the snapshot in `tests/golden/charts` (a real API server with KubeRay's own
  schema takes each in the API tier);
- the application's argument is an `Endpoint`, with every field that one has, in both engines;
- variables are those of `halftone.serve.ray_environment`, on the head and on replicas;
- one value sets every timeout that could cut an answer;
- pods: how many, with how many GPUs; secrets and tokens only where they are used;
- who may reach which port, and that no selector finds another's pods;
- words of values are those of `halftone.spec.serving`, the version of Ray is the pinned one.
"""

import json
import re
from collections.abc import Iterator

import pytest
import yaml

from halftone import __version__
from halftone.serve.application import described
from halftone.serve.ray_environment import PATIENCE_S, environment
from halftone.spec.reports import Verdict
from halftone.spec.serving import (
    Accelerator,
    Endpoint,
    Routing,
    ServingMode,
    Signatures,
    Strategy,
    Trust,
    WarmUp,
    WeightOnlyFallback,
)
from tests.api.goldens import agrees_with_golden
from tests.cluster.endpoint_chart import (
    CHART,
    Object,
    application_of,
    count_of,
    endpoint_of,
    helm,
    of_kind,
    ray_service,
    render,
    standalone,
    templates,
    variables,
)
from tests.cluster.endpoint_variants import (
    DRAFTED,
    FROM_JOB,
    GATEWAY,
    MONITORED,
    STANDALONE,
    VARIANTS,
)
from tests.conftest import ROOT
from tools import charts


def test_helm_and_the_generator_have_nothing_to_complain_about() -> None:
    assert "[WARNING]" not in helm("lint", "--strict")
    assert charts.check(CHART) == []


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_is_its_snapshot_and_fits_what_reads_it(variant: str) -> None:
    text = helm("template", "--namespace", "team", *VARIANTS[variant])
    text = text.replace(__version__, "<version>")
    assert agrees_with_golden(f"charts/endpoint-{variant}.yaml", text)
    objects = render("team", *VARIANTS[variant])
    served = endpoint_of(objects)
    if of_kind(objects, "RayService"):
        application = application_of(objects)
        args = Endpoint.model_validate(application["args"])
        wanted = described(args.model_copy(update=count_of(application["deployments"][0])))
        assert {**application, "args": wanted["args"]} == wanted
    for container in containers(objects):
        assert environment(served).items() <= variables(container).items()


def containers(objects: list[Object]) -> list[Object]:
    """The containers of Ray, or of `halftone serve`."""
    if not of_kind(objects, "RayService"):
        found: list[Object] = standalone(objects)["spec"]["template"]["spec"]["containers"]
        return found
    return [
        template["spec"]["containers"][0]
        for template in templates(ray_service(objects)).values()
    ]  # fmt: skip


@pytest.mark.parametrize("engine", ["RayService", "Standalone"])
def test_every_field_of_an_endpoint_comes_from_a_value(engine: str) -> None:
    mode = ("--set", f"engine.mode={engine}")
    served = endpoint_of(render("team", *DRAFTED, "--set", "cache.maxGigabytes=9", *mode))
    # Replicas read neither where a job wrote an artifact, nor how many they are.
    beside = {"artifactFile", "autoscaling"}
    assert set(Endpoint.model_fields) - served.model_fields_set == beside
    assert "artifactFile" in endpoint_of(render("team", *FROM_JOB, *mode)).model_fields_set
    assert (served.maxModelLen, served.maxNumSeqs) == (262144, 16777216)
    assert served.engineArguments == {"num_gpu_blocks_override": 16777216, "x": {"y": 1.5}}
    assert served.draftTrust == Trust(
        signature=Signatures.NotRequired, verdicts=(Verdict.Unmeasured,)
    )
    assert served.servedModelName == "small"


def test_words_are_those_of_the_endpoint() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    words = {
        name: set(found["enum"])
        for name, found in (schema["properties"] | schema["definitions"]).items()
        if "enum" in found
    }
    assert words["servingMode"] == set(ServingMode)
    assert words["accelerator"] == set(Accelerator)
    assert words["routing"] == set(Routing)
    assert words["strategy"] == set(Strategy)
    assert words["warmUp"] == set(WarmUp)
    assert words["weightOnlyFallback"] == set(WeightOnlyFallback)
    # Nobody means to serve what failed.
    assert words["verdict"] == set(Verdict) - {Verdict.Failed, Verdict.Inconclusive}
    signature = schema["properties"]["trust"]["properties"]["signature"]["enum"]
    assert set(signature) == set(Signatures)
    pinned = (ROOT / "requirements" / "serve.txt").read_text()
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert f"\nray=={values['ray']['version']} " in pinned


def test_numbers_have_the_bounds_that_an_endpoint_has() -> None:
    """Or KubeRay would take what every replica refuses."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = schema["properties"] | {"draftTokens": schema["definitions"]["draftTokens"]}
    known = Endpoint.model_json_schema()
    fields = known["properties"] | known["$defs"]["Limits"]["properties"]
    for part in ("Autoscaling", "Objectives"):
        fields |= known["$defs"][part]["properties"]
    values |= values["autoscaling"]["properties"]
    values |= values["objectives"]["properties"] | {"leadSeconds": schema["definitions"]["seconds"]}
    compared = set()
    for name in values.keys() & fields.keys():
        field = fields[name].get("anyOf", [fields[name]])[0]
        if field.get("type") == "integer" and "minimum" in values[name]:
            wanted = (field["minimum"], field["maximum"])
            assert (values[name]["minimum"], values[name]["maximum"]) == wanted, name
            compared.add(name)
    assert {"draftTokens", "replicas", "tensorParallel", "maxRequestSeconds"} <= compared
    assert {"maxReplicas", "thetaPercent", "leadSeconds", "ttftMilliseconds"} <= compared


def test_one_value_sets_every_timeout() -> None:
    seconds = 1234
    longest = seconds + PATIENCE_S
    objects = render("team", *GATEWAY, "--set", f"maxRequestSeconds={seconds}")
    service, (route,) = ray_service(objects), of_kind(objects, "HTTPRoute")
    assert endpoint_of(objects).limits.maxRequestSeconds == seconds
    assert service["spec"]["rayClusterDeletionDelaySeconds"] == longest
    autoscaler = service["spec"]["rayClusterConfig"]["autoscalerOptions"]
    assert autoscaler["idleTimeoutSeconds"] == longest
    assert templates(service)["replica"]["spec"]["terminationGracePeriodSeconds"] > longest
    found = variables(templates(service)["replica"]["spec"]["containers"][0])
    of_proxy = {
        name: value
        for name, value in found.items()
        if re.search("HARD_STOP|TIMEOUT_(SERVER|CLIENT)", name)
    }
    assert len(of_proxy) == 3
    assert set(of_proxy.values()) == {str(longest)}
    assert route["spec"]["rules"][0]["timeouts"]["request"] == f"{longest}s"
    (deployment,) = of_kind(
        render("team", *STANDALONE, "--set", f"maxRequestSeconds={seconds}"), "Deployment"
    )
    assert deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] > longest


@pytest.mark.parametrize(
    ("values", "gpus", "pods"),
    [
        ("replicas=1", 1, 1),
        ("replicas=3,tensorParallel=4", 4, 3),
        ("replicas=3,tensorParallel=2,worker.gpus=4", 4, 2),  # two replicas a pod
        ("replicas=3,tensorParallel=8,pipelineParallel=2", 8, 6),  # two pods a replica
        ("replicas=1,tensorParallel=2,pipelineParallel=3,worker.gpus=4", 4, 2),
        ("replicas=5,tensorParallel=1,pipelineParallel=2,worker.gpus=8", 8, 2),
        ("replicas=2,tensorParallel=2,pipelineParallel=2,engine.mode=Standalone", 4, 2),
    ],
)
def test_pods_have_room_for_replicas(values: str, gpus: int, pods: int) -> None:
    objects = render("team", "--set", values)
    container = containers(objects)[-1]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == gpus
    if of_kind(objects, "Deployment"):
        assert of_kind(objects, "Deployment")[0]["spec"]["replicas"] == pods
        return
    (group,) = ray_service(objects)["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    assert (group["replicas"], group["minReplicas"]) == (pods, 0)
    assert group["rayStartParams"]["num-gpus"] == str(gpus)


@pytest.mark.parametrize(
    ("values", "bound"),
    [
        ("replicas=3", {"minAvailable": 2}),
        # Either pod may be either replica's.
        ("replicas=2,tensorParallel=8,pipelineParallel=2", {"minAvailable": 3}),
        ("replicas=4,worker.gpus=2", {"minAvailable": 1}),
        ("replicas=2,engine.mode=Standalone", {"maxUnavailable": 1}),
        (
            "autoscaling.prometheusUrl=http://p:9090,autoscaling.minReplicas=2,"
            "engine.mode=Standalone",
            {"maxUnavailable": 1},  # however many there are
        ),
    ],
)
def test_a_drained_node_takes_one_replica_at_a_time(values: str, bound: dict[str, int]) -> None:
    objects = render("team", "--set", f"podDisruptionBudget.enabled=true,{values}")
    (budget,) = of_kind(objects, "PodDisruptionBudget")
    others = {"unhealthyPodEvictionPolicy", "selector"}
    assert {name: one for name, one in budget["spec"].items() if name not in others} == bound


def test_secrets_and_tokens_are_only_where_they_are_used() -> None:
    service = ray_service(render("team", *VARIANTS["multimodal-tools"]))
    head, replica = (one["spec"] for one in templates(service).values())
    told = json.dumps(head)
    assert not re.search("clients|hub|s3", told)
    assert {"clients", "hub", "s3"} <= set(
        re.findall(r'"(?:name|secretName)": "(\w+)"', json.dumps(replica))
    )
    assert {head["automountServiceAccountToken"], replica["automountServiceAccountToken"]} == {
        False
    }
    assert "serviceAccountToken" not in json.dumps(replica)
    waiting = templates(ray_service(render("team", *FROM_JOB)))["replica"]["spec"]
    (asks,), (serves,) = waiting["initContainers"], waiting["containers"]
    assert "token" in {one["name"] for one in asks["volumeMounts"]}
    assert "token" not in {one["name"] for one in serves["volumeMounts"]}


def test_what_is_the_users_own_is_in_every_container() -> None:
    options = (
        *("--set", "environment.SSL_CERT_FILE=/own/ca.crt"),
        *("--set-json", 'extraVolumes=[{"name":"own","configMap":{"name":"ca"}}]'),
        *("--set-json", 'extraVolumeMounts=[{"name":"own","mountPath":"/own"}]'),
    )
    for engine in ((), STANDALONE):
        objects = render("team", *FROM_JOB, *options, *engine)
        pods = [one["spec"]["template"]["spec"] for one in of_kind(objects, "Deployment")]
        found: list[Object] = []
        for service in of_kind(objects, "RayService"):
            pods += [one["spec"] for one in templates(service).values()]
            found.append(service["spec"]["rayClusterConfig"]["autoscalerOptions"])
        for spec in pods:
            assert "own" in {one["name"] for one in spec["volumes"]}
            found += spec["containers"] + spec["initContainers"]
        assert len(found) == (2 if engine else 5)
        for container in found:
            assert variables(container)["SSL_CERT_FILE"] == "/own/ca.crt"
            assert "/own" in {one["mountPath"] for one in container["volumeMounts"]}


def test_the_account_may_read_that_one_job_and_nothing_else() -> None:
    for options, place in ((FROM_JOB, "team"), (VARIANTS["from-job"], "jobs")):
        objects = render("team", *options)
        (role,), (binding,) = of_kind(objects, "Role"), of_kind(objects, "RoleBinding")
        assert role["metadata"]["namespace"] == binding["metadata"]["namespace"] == place
        assert role["rules"] == [
            {
                "apiGroups": ["halftone.dev"],
                "resources": ["quantizationjobs"],
                "resourceNames": ["small"],
                "verbs": ["get"],
            }
        ]
        accounts = {one["metadata"]["name"] for one in of_kind(objects, "ServiceAccount")}
        assert {one["name"] for one in binding["subjects"]} == accounts
    assert of_kind(render("team"), "Role") == []


def test_only_clients_reach_the_port_of_the_api_and_nobody_else_another() -> None:
    objects = render("team", *MONITORED)
    head, replica = sorted(
        of_kind(objects, "NetworkPolicy"),
        key=lambda one: not one["metadata"]["name"].endswith("head"),
    )

    def doors(policy: Object) -> dict[str, set[int]]:
        """Ports by who gets in; 0 is every port."""
        found: dict[str, set[int]] = {}
        for rule in policy["spec"]["ingress"]:
            ports = {one["port"] for one in rule.get("ports", [{"port": 0}])}
            for peer in rule.get("from", [{}]):
                found.setdefault(json.dumps(peer, sort_keys=True), set()).update(ports)
        return found

    def of(word: str, policy: Object) -> set[int]:
        (found,) = (ports for peer, ports in doors(policy).items() if word in peer)
        return found

    assert of('"asks"', replica) == {8000}
    assert of('"test"', replica) == {8000}
    assert of('"a": "b"', replica) == {8080, 9101}
    assert of('["head", "replica"]', replica) == of('["head", "replica"]', head) == {0}
    assert of("kuberay-operator", head) == {8265, 8000}
    assert of('"a": "b"', head) == {8080, 44217, 44227}
    assert (len(doors(replica)), len(doors(head))) == (4, 3)
    # Without further values: everybody, on the one port.
    (alone,) = of_kind(render("team", *STANDALONE), "NetworkPolicy")
    for policy in (*of_kind(render("team"), "NetworkPolicy"), alone):
        if policy["metadata"]["name"] == "small":
            assert doors(policy)["{}"] == {8000}
        else:
            assert "{}" not in doors(policy)


def test_selectors_find_the_pods_of_their_own_release() -> None:
    for options in ((), STANDALONE):
        budget = ("--set", "replicas=2,podDisruptionBudget.enabled=true")
        objects = render("team", *options, *budget)
        other = render("team", *options, *budget, release="other")
        for one in (*of_kind(objects, "NetworkPolicy"), *of_kind(objects, "PodDisruptionBudget")):
            selector = one["spec"].get("podSelector", one["spec"].get("selector"))["matchLabels"]
            found = [selector.items() <= labels.items() for labels in pod_labels(objects)]
            assert sum(found) == 1
            assert not any(selector.items() <= labels.items() for labels in pod_labels(other))


def pod_labels(objects: list[Object]) -> list[Object]:
    pods = [one["metadata"]["labels"] for one in of_kind(objects, "Pod")]
    pods += [
        one["spec"]["template"]["metadata"]["labels"] for one in of_kind(objects, "Deployment")
    ]
    for service in of_kind(objects, "RayService"):
        pods += [one["metadata"]["labels"] for one in templates(service).values()]
    return pods


def test_labels_of_pods_are_not_those_that_kuberay_chooses_by() -> None:
    """Its Services choose by what it sets itself, and a pod's own label would win."""
    options = ("--set-json", 'commonLabels={"app.kubernetes.io/name":"x","team":"y"}')
    for labels in map(Object, pod_labels(render("team", *options))[-2:]):
        assert not {"app.kubernetes.io/name", "app.kubernetes.io/created-by"} & labels.keys()
        assert labels["team"] == "y"


@pytest.mark.parametrize("engine", [(), STANDALONE])
def test_what_the_chart_says_cannot_be_said_again(engine: tuple[str, ...]) -> None:
    """A key that stands twice is no YAML; PyYAML takes the second without a word."""
    own = {
        "podAnnotations": ("halftone.dev/pool",),
        "commonLabels": (
            "app.kubernetes.io/component",
            "app.kubernetes.io/instance",
            "app.kubernetes.io/part-of",
            "halftone.dev/endpoint",
        ),
    }
    options = [
        f"--set-json={name}={json.dumps(dict.fromkeys(keys, 'x'))}" for name, keys in own.items()
    ]
    text = helm("template", *engine, *options)
    for document in yaml.compose_all(text, Loader=yaml.SafeLoader):
        assert list(repeated(document)) == []
    for labels in pod_labels(render("team", *engine, *options)):
        assert "x" not in labels.values()


def repeated(node: yaml.Node | None) -> Iterator[str]:
    """Keys that stand twice in one mapping."""
    if isinstance(node, yaml.MappingNode):
        keys = [key.value for key, _ in node.value]
        yield from {key for key in keys if keys.count(key) > 1}
        for _, value in node.value:
            yield from repeated(value)
    elif isinstance(node, yaml.SequenceNode):
        for each in node.value:
            yield from repeated(each)


def test_monitors_name_ports_that_pods_have() -> None:
    objects = render("team", *MONITORED)
    names = {
        port["name"]
        for template in templates(ray_service(objects)).values()
        for port in template["spec"]["containers"][0]["ports"]
    }
    found = of_kind(objects, "PodMonitor")
    assert len(found) == 2
    for monitor in found:
        assert {one["port"] for one in monitor["spec"]["podMetricsEndpoints"]} <= names
        assert monitor["metadata"]["labels"]["release"] == "prometheus"
