//! What each command's help ends with: examples first, then what its words mean.

pub(super) const EXAMPLES: &str = "\
Examples:
  meshctl demo                 run a whole mesh here and watch it
  meshctl install              install the mesh into a Kubernetes cluster
  meshctl check                is everything well?
  meshctl stat                 figures of every workload
  meshctl edges -o json        who calls whom, for a program

Exit codes of every command: 0 all is well; 1 something is not, or could not be done (the message says what to do); 2 a flag, \
or a value or file that one names, cannot be used.";

pub(super) const INSTALL_EXAMPLES: &str = "\
Examples:
  meshctl install
  meshctl install --ha
  meshctl install --set image.registry=registry.example.com/mesh --set proxy.logLevel=warn
  meshctl install -f values.yaml
  meshctl install -o yaml | kubectl diff -f -   what would be different

Renders the same charts as Helm (charts/mesh-crds, charts/mesh; charts/mesh/values.yaml lists the values) and applies them \
to the namespace mesh-system. Run it again after an interruption, or with other values: the values \
given are all there are (upgrade keeps the last ones). While one runs, another is refused. What Helm \
installed is left to Helm.";

pub(super) const INJECT_EXAMPLES: &str = "\
Examples:
  kubectl get deploy -o yaml | meshctl inject | kubectl apply -f -
  meshctl inject app.yaml | kubectl apply -f -
  meshctl inject manifests/ > meshed.yaml
  meshctl inject --disable < batch.yaml | kubectl apply -f -
  meshctl inject --manual app.yaml | kubectl apply -f -
  meshctl inject --manual --ignore-cluster app.yaml | diff app.yaml -

Sets the annotation meshctl.io/inject on what pods are made from (Deployment, StatefulSet, DaemonSet, Job, CronJob, \
Pod, Namespace …, in YAML or JSON, many documents or a List). The proxy itself is put in by the \
cluster when the pod is made; with --manual it is put in here, by the same rules and with the settings of the installed mesh, and \
keeps its version until the manifest is made anew. What says disabled itself is left so: uninject takes the word away first. \
Documents that change lose their comments, the others stay as they are.";

pub(super) const UNINJECT_EXAMPLES: &str = "\
Examples:
  kubectl get deploy -o yaml | meshctl uninject | kubectl apply -f -
  meshctl uninject meshed.yaml > app.yaml

From then on the namespace decides. A proxy that inject --manual put in stays: make the manifest anew without it.";

pub(super) const UPGRADE_EXAMPLES: &str = "\
Examples:
  meshctl upgrade --plan
  meshctl upgrade
  meshctl upgrade --set controller.replicas=3   and keep all other values
  meshctl upgrade --reset-values -f values.yaml and nothing else of the last time

Running proxies keep their version until their pods are restarted; those of the same and the \
minor version before go on working.";

pub(super) const UNINSTALL_EXAMPLES: &str = "\
Examples:
  meshctl uninstall
  meshctl uninstall --crds     the kinds of meshctl.io and all objects of theirs as well
  meshctl uninstall --force    even while pods have a proxy: they work until their certificates end

Refuses while pods have a proxy, because they lose their certificate authority, and says when each \
certificate ends. Labels that the mesh wrote on namespaces go; annotations stay: they are their owners' words. \
The namespace mesh-system goes if meshctl install made it and nothing of anybody else's is in it.";

pub(super) const CHECK_EXAMPLES: &str = "\
Examples:
  meshctl check --pre          can a mesh be installed here?
  meshctl check --pre --ha     the same for meshctl install --ha; -f and --set as there
  meshctl check                is the installed one well?
  meshctl check --proxy        its proxies too
  meshctl check -n shop        one namespace of yours, with no rights elsewhere
  meshctl check --wait 5m      until nothing fails, for a script
  meshctl check -o json

--wait ends at once when every line is good, and after 3 s without a failure when what is left are warnings that waiting does not \
change (a namespace that asks for no proxies, pods from before injection). A rollout, a program that starts and a proxy that \
drains or connects are waited for. Warnings never make the exit code 1.";

pub(super) const STAT_EXAMPLES: &str = "\
Examples:
  meshctl stat                 per workload, as its own proxy saw it
  meshctl stat deploy -n shop
  meshctl stat deploy/web --to svc/cart
  meshctl stat svc -A
  meshctl stat pod --proxy     what each proxy takes
  meshctl stat --by version    how a canary does beside the stable version
  meshctl stat --window 10s    calmer figures
  meshctl stat -o wide         errors per second as well

MESHED is proxies that answered out of pods known. SUCCESS is the share of requests that did not fail: failures are 5xx, \
requests without an answer, and the gRPC statuses that are the server's doing (UNKNOWN, DEADLINE_EXCEEDED, \
RESOURCE_EXHAUSTED, INTERNAL, UNAVAILABLE, DATA_LOSS). A 4xx is the client's doing and counts as a success; -o wide \
and -o json show 4xx and failures per second. MTLS is the share of requests that came by mutual TLS. Behind an HTTPRoute, the \
Service of a request is the backend it was sent to. CPU and MEMORY are the sum of the row's proxies; \
ADDED is the time that requests spent in the proxies of their callers rather than behind them.";

pub(super) const EDGES_EXAMPLES: &str = "\
Examples:
  meshctl edges
  meshctl edges -n shop
  meshctl edges deploy/web     who calls it, and whom it calls
  meshctl edges pod/web-7d4f-x as its own proxy saw it
  meshctl edges -A --window 10s
  meshctl edges -o json

Figures are those of the calling proxy where it is known; identities are from the certificates \
both ends showed.";

pub(super) const IDENTITY_EXAMPLES: &str = "\
Examples:
  meshctl identity
  meshctl identity -n shop
  meshctl identity deploy/web -n shop
  meshctl identity -A -o json

EXPIRES IN is what is left of the certificate in force, RENEWS IN when the proxy asks for the next one.";

pub(super) const PROXY_STATUS_EXAMPLES: &str = "\
Examples:
  meshctl proxy-status
  meshctl proxy-status -A            of all namespaces
  meshctl proxy-status deploy/web    with every key they subscribe to
  meshctl proxy-status --stale-after 5s

AGE is how long ago the sources behind a proxy's picture were last known to be live.";

pub(super) const VERSION_EXAMPLES: &str = "\
Examples:
  meshctl version
  meshctl version --client     this program only; nothing is asked

Proxies go on working with a control plane of their own or the next minor version: meshctl upgrade --plan says so beforehand.";

pub(super) const DEMO_EXAMPLES: &str = "\
Examples:
  meshctl demo                 until Ctrl-C; look around from another terminal with meshctl stat
  meshctl demo --once          a test: 10 seconds of traffic, then a verdict
  meshctl demo --rps 500

Runs identity, controller and a shop of five services, each pod in a network namespace of its own \
with its proxy. Needs Linux, and root or unprivileged user namespaces. Nothing of this machine's \
network is touched, and everything is gone when it ends.";

pub(super) const COMPLETION_EXAMPLES: &str = "\
Examples:
  source <(meshctl completion bash)
  meshctl completion zsh > \"${fpath[1]}/_meshctl\"
  meshctl completion fish > ~/.config/fish/completions/meshctl.fish";
