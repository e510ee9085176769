//! One run of the demo, from namespaces to the last words.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use proto::bootstrap::{Bootstrap, Ports, Workload, spiffe_id};
use proto::names;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, interval, interval_at};

use crate::args::DemoArgs;
use crate::location::{ADMIN_SOCKET, MANIFESTS, PROXIES, PodState};
use crate::output;

use super::app::{self, AppSpec, CallSpec};
use super::control_plane::{CLUSTER, CONTROLLER_POD, ControlPlane, IDENTITY_POD, upstream};
use super::directory::{BOUND_PROGRAMS, Directory};
use super::manifest_check::ManifestCheck;
use super::manifests;
use super::namespaces::{self, Rights};
use super::pod::{PodSpec, ProcessSpec};
use super::programs::{CONTROLLER, IDENTITY, PROXY, Programs};
use super::shop::{MEMBERS, Member, NAMESPACE, TRAFFIC, pod_addresses};
use super::stage::Stage;
use super::{live, shop, verdict};

/// Runs the demo until it is over, and leaves nothing behind.
pub(super) fn run(args: &DemoArgs, named: Option<&Path>) -> anyhow::Result<()> {
    let own = std::env::current_exe().context("this program does not know where it is")?;
    let beside = own.parent().context("this program is nowhere")?;
    let needed: &[&str] = if args.no_mesh { &[] } else { &[PROXY, IDENTITY, CONTROLLER] };
    let mut programs = Programs::find(beside, needed)?;
    let directory = Directory::take(named)?;
    let result = namespaces::enter(args.user_namespace).and_then(|rights| {
        let bound = directory.path().join(BOUND_PROGRAMS);
        if rights == Rights::Root {
            namespaces::bind_programs(beside, &bound)?;
            programs.directory = bound.clone();
        }
        let demo = Demo { args, directory: &directory, programs, rights };
        let name = own.file_name().context("this program has no name")?;
        let result = crate::run::runtime()?.block_on(demo.run(Path::new(name)));
        if rights == Rights::Root {
            namespaces::unbind_programs(&bound)?;
        }
        result
    });
    match result {
        // What went wrong is in the logs: they stay where somebody may want to read them, until the next demo.
        Err(error) if !args.no_mesh => {
            eprintln!("meshctl: logs are kept until the next demo, in {}/logs", directory.path().display());
            Err(error)
        }
        result => directory.remove().and(result),
    }
}

struct Demo<'a> {
    args: &'a DemoArgs,
    directory: &'a Directory,
    programs: Programs,
    rights: Rights,
}

/// Users of the pods' processes; none of them in a user namespace, which holds only one.
#[derive(Debug, Clone, Copy)]
struct Users {
    proxy: Option<u32>,
    control: Option<u32>,
    app: Option<u32>,
}

impl Demo<'_> {
    async fn run(&self, name: &Path) -> anyhow::Result<()> {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut hangup = signal(SignalKind::hangup())?;
        let mut stage = Stage::new(self.directory, &self.programs.directory.join(name)).await?;
        let result = tokio::select! {
            result = self.show(&mut stage) => result,
            _ = interrupt.recv() => Ok(()),
            _ = terminate.recv() => Ok(()),
            _ = hangup.recv() => Ok(()),
        };
        stage.end().await;
        result
    }

    async fn show(&self, stage: &mut Stage) -> anyhow::Result<()> {
        let started = Instant::now();
        let progress =
            |text: &str| output::print(&format!("{:5.1}s  {text}\n", (Instant::now() - started).as_secs_f64()));
        progress(&format!("the demo lives in {}", self.directory.path().display()))?;
        // All pods are named before any is started: whoever looks in between must not take a part for the whole.
        stage.state().pods = self.planned();
        self.directory.write_state(stage.state())?;
        let control = self.raise_control_plane(stage, &progress).await?;
        self.raise_shop(stage, control.as_ref()).await?;
        progress("the shop is open: every pod in a network namespace of its own, with its proxy")?;
        stage.state().ready = true;
        self.directory.write_state(stage.state())?;
        let report = self.directory.path().join("apps").join(TRAFFIC).join(app::REPORT);
        let stay = async {
            if self.args.once {
                verdict::once(self.directory.path(), &report).await?;
            }
            if !self.args.once || self.args.keep_open {
                live::watch(self.directory.path(), &report, self.args.r#for).await?;
            }
            Ok(())
        };
        tokio::select! {
            result = stay => result,
            result = self.look_after(stage, control.as_ref()) => result,
        }
    }

    fn planned(&self) -> Vec<PodState> {
        let mesh = !self.args.no_mesh;
        let control = [(IDENTITY_POD, 2), (CONTROLLER_POD, 3)].into_iter().filter(|_| mesh);
        let control =
            control.map(|(name, number)| about(name, names::SYSTEM_NAMESPACE, false, pod_addresses(0, number)));
        let shop = MEMBERS.iter().map(|member| about(member.workload, NAMESPACE, mesh, member.addresses()));
        control.chain(shop).collect()
    }

    async fn raise_control_plane(
        &self,
        stage: &mut Stage,
        progress: &impl Fn(&str) -> anyhow::Result<()>,
    ) -> anyhow::Result<Option<ControlPlane>> {
        if self.args.no_mesh {
            return Ok(None);
        }
        let control = ControlPlane::new(self.directory, self.programs.clone(), self.users().control)?;
        manifests::write(&self.directory.path().join(MANIFESTS))?;
        for (pod, spec) in [(IDENTITY_POD, control.identity()), (CONTROLLER_POD, control.controller())] {
            if pod == CONTROLLER_POD {
                control.write_controller_token().await?;
            }
            stage.start(&spec).await?;
            stage.wait_for_apps(&[pod]).await?;
            if pod == IDENTITY_POD {
                let bundle = control.bundle.clone();
                stage.wait_until("identity has made no trust bundle", READY_WITHIN, move || bundle.is_file()).await?;
            }
            progress(&format!("{pod} is up"))?;
        }
        Ok(Some(control))
    }

    /// Everybody at once but the traffic, which comes when all others listen.
    async fn raise_shop(&self, stage: &mut Stage, control: Option<&ControlPlane>) -> anyhow::Result<()> {
        let (traffic, servers): (Vec<_>, Vec<_>) = MEMBERS.iter().partition(|member| member.workload == TRAFFIC);
        for members in [servers, traffic] {
            for member in &members {
                let spec = self.pod(member, control).await?;
                stage.start(&spec).await?;
                self.directory.write_state(stage.state())?;
            }
            let names: Vec<&str> = members.iter().map(|member| member.workload).collect();
            stage.wait_for_apps(&names).await?;
            let apps = self.directory.path().join("apps");
            let serving = members.iter().filter(|member| !member.serves().is_empty());
            let ready: Vec<PathBuf> = serving.map(|member| apps.join(member.workload).join(app::READY)).collect();
            stage
                .wait_until("the shop's programs do not listen", READY_WITHIN, || {
                    ready.iter().all(|file| file.exists())
                })
                .await?;
        }
        self.directory.write_state(stage.state())
    }

    /// Notes processes that were started again and manifests that went wrong, and keeps tokens fresh. Ends only with a
    /// failure.
    async fn look_after(&self, stage: &mut Stage, control: Option<&ControlPlane>) -> anyhow::Result<()> {
        let mut tokens = interval_at(Instant::now() + TOKENS_EVERY, TOKENS_EVERY);
        let mut looks = interval(Duration::from_secs(1));
        let manifests = self.directory.path().join(MANIFESTS);
        let mut manifests = ManifestCheck::new(self.programs.path(CONTROLLER), manifests);
        loop {
            tokio::select! {
                (name, event) = stage.next_event() => {
                    if let super::pod::PodEvent::Failed(why) = event {
                        anyhow::bail!("pod {name}: {why}");
                    }
                    self.directory.write_state(stage.state())?;
                }
                _ = looks.tick(), if control.is_some() => {
                    let Some(problems) = manifests.look().await else { continue };
                    stage.state().manifest_problems = Some(problems);
                    self.directory.write_state(stage.state())?;
                }
                _ = tokens.tick() => {
                    let Some(control) = control else { continue };
                    control.write_controller_token().await?;
                    for member in &MEMBERS {
                        self.write_token(member, control).await?;
                    }
                }
            }
        }
    }

    async fn pod(&self, member: &Member, control: Option<&ControlPlane>) -> anyhow::Result<PodSpec> {
        let mut init = Vec::new();
        let mut proxy = None;
        if let Some(control) = control {
            let (rules, sidecar, socket) = self.sidecar(member, control).await?;
            init.push(rules);
            proxy = Some((sidecar, socket));
        }
        let own = std::env::current_exe().context("this program does not know where it is")?;
        let name = own.file_name().context("this program has no name")?;
        let directory = self.directory.make(&format!("apps/{}", member.workload), self.users().app)?;
        let app = AppSpec {
            name: member.app.to_owned(),
            version: member.version.to_owned(),
            listens: member.serves().into_iter().collect(),
            calls: member.calls.iter().filter_map(|call| self.call(call)).collect(),
            rps: if member.workload == TRAFFIC { self.args.rps } else { 0 },
            directory,
        };
        let env = BTreeMap::from([(app::SPEC_VARIABLE.to_owned(), serde_json::to_string(&app)?)]);
        let app = self.process(
            self.programs.directory.join(name),
            "demo-app",
            env,
            self.users().app,
            &format!("{}.app", member.workload),
        )?;
        Ok(PodSpec { name: member.workload.to_owned(), addresses: member.addresses(), init, proxy, app })
    }

    /// Where a call goes: to the Service, or, where no proxy knows Services, to its first pod.
    fn call(&self, call: &shop::Call) -> Option<CallSpec> {
        let service = shop::service(call.service)?;
        let (addresses, port) = if self.args.no_mesh {
            (service.members().next()?.addresses(), service.protocol.app_port())
        } else {
            (service.addresses().to_vec(), service.protocol.service_port())
        };
        let address = addresses.into_iter().find(|address| address.is_ipv6() == call.over_ipv6)?;
        let address = SocketAddr::new(address, port);
        Some(CallSpec { name: service.name.to_owned(), address, protocol: service.protocol })
    }

    /// The commands that write the rules and run the proxy, and the proxy's admin socket.
    async fn sidecar(
        &self,
        member: &Member,
        control: &ControlPlane,
    ) -> anyhow::Result<(ProcessSpec, ProcessSpec, PathBuf)> {
        let user = self.users().proxy;
        let home = self.directory.make(&format!("{PROXIES}/{}", member.workload), user)?;
        let state = self.directory.make(&format!("{PROXIES}/{}/state", member.workload), user)?;
        self.write_token(member, control).await?;
        let socket = home.join(ADMIN_SOCKET);
        let bootstrap = Bootstrap {
            trust_domain: names::TRUST_DOMAIN.to_owned(),
            workload: Workload {
                name: member.workload.to_owned(),
                namespace: NAMESPACE.to_owned(),
                service_account: member.app.to_owned(),
                addresses: member.addresses(),
                owner: member.workload.to_owned(),
                app: member.app.to_owned(),
                version: member.version.to_owned(),
                cluster: CLUSTER.to_owned(),
            },
            identity: upstream(IDENTITY_POD),
            controller: upstream(CONTROLLER_POD),
            token_file: home.join(TOKEN),
            bundle_file: Some(control.bundle.clone()),
            bundle: None,
            state_directory: Some(state),
            admin_socket: Some(socket.clone()),
            ports: Ports::default(),
            socket_mark: (self.rights == Rights::UserNamespace).then_some(names::PROXY_MARK),
            loopback_ports: Vec::new(),
            workers: 1,
            max_head_bytes: 128 * 1024,
            log: "info".to_owned(),
            drain_delay_ms: 2000,
            probes: BTreeMap::new(),
        };
        let env = BTreeMap::from([(names::BOOTSTRAP_VARIABLE.to_owned(), bootstrap.to_json())]);
        let program = self.programs.path(PROXY);
        let mut rules =
            self.process(program.clone(), "init", env.clone(), None, &format!("{}.init", member.workload))?;
        if self.rights == Rights::UserNamespace {
            rules.args.extend(["--uid".to_owned(), "none".to_owned()]);
        }
        let sidecar = self.process(program, "run", env, user, &format!("{}.proxy", member.workload))?;
        Ok((rules, sidecar, socket))
    }

    async fn write_token(&self, member: &Member, control: &ControlPlane) -> anyhow::Result<()> {
        let file = self.directory.path().join(PROXIES).join(member.workload).join(TOKEN);
        let id = spiffe_id(names::TRUST_DOMAIN, NAMESPACE, member.app);
        control.write_token(&id, &file, self.users().proxy).await
    }

    fn process(
        &self,
        program: PathBuf,
        argument: &str,
        env: BTreeMap<String, String>,
        user: Option<u32>,
        log: &str,
    ) -> anyhow::Result<ProcessSpec> {
        let log = self.directory.make("logs", None)?.join(format!("{log}.log"));
        Ok(ProcessSpec { program, args: vec![argument.to_owned()], env, user, log })
    }

    fn users(&self) -> Users {
        match self.rights {
            Rights::Root => Users { proxy: Some(names::PROXY_UID), control: Some(CONTROL_USER), app: Some(APP_USER) },
            Rights::UserNamespace => Users { proxy: None, control: None, app: None },
        }
    }
}

/// A pod for the state file, before it has a process.
fn about(name: &str, namespace: &str, meshed: bool, addresses: Vec<IpAddr>) -> PodState {
    PodState {
        name: name.to_owned(),
        namespace: namespace.to_owned(),
        workload: name.to_owned(),
        meshed,
        addresses,
        ..PodState::default()
    }
}

const TOKEN: &str = "token";
const CONTROL_USER: u32 = 65_532;
const APP_USER: u32 = 65_534;
const READY_WITHIN: Duration = Duration::from_secs(20);
/// Tokens live for ten minutes.
const TOKENS_EVERY: Duration = Duration::from_secs(240);
