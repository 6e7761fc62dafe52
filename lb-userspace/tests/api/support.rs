//! A daemon loop that answers from fixed values: the seam between the API and the real loop.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
};

use lb_userspace::{
    admin::{NodeChange, NodeChanged, ServerChange, ServerChanged},
    api::{ControlSocket, Refusal, Request, serve},
    capture::{CaptureQuery, pcapng},
    config::Edit,
    core::{
        admin::{Admin, Change, Drained, Override},
        deny::{Rule, Source},
    },
    deny::{Denied, DenyAction, DenyChange, DenyChanged, DenyCounts, DenyQuery, ListedRule},
    explain::{ChosenBackend, ExplainQuery, Explanation, FlowState, Verdict},
    flows::{Counts, Flows, FlowsQuery},
    reload::{ReloadQuery, Reloaded},
    status::{NextHop, Status},
};
use tempfile::TempDir;
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

/// What the fake data path says about flows to any other port than 80.
pub(crate) const NO_PROGRAM: &str = "no XDP program is loaded";

/// The documented example.
pub(crate) fn example() -> Status {
    serde_json::from_str(include_str!("status.json")).expect("example is a status")
}

/// A running API with the fake loop behind it.
pub(crate) struct FakeDaemon {
    directory: TempDir,
    pub(crate) socket: PathBuf,
    /// Where it shows metrics.
    pub(crate) figures: SocketAddr,
    stop: oneshot::Sender<()>,
    server: JoinHandle<std::io::Result<()>>,
}

impl FakeDaemon {
    pub(crate) async fn start() -> Self {
        Self::start_with(Ok(example())).await
    }

    /// One that answers every question for its status so.
    pub(crate) async fn start_with(status: Result<Status, String>) -> Self {
        let directory = TempDir::new().expect("temporary directory");
        let socket = directory.path().join("usher.sock");
        let control = ControlSocket::bind(&socket).await.expect("control socket");
        let metrics = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("socket for metrics");
        let figures = metrics.local_addr().expect("its address");
        let (requests, queue) = mpsc::channel(8);
        tokio::spawn(answer(queue, status));
        let (stop, stopped) = oneshot::channel();
        let server = tokio::spawn(serve(control, vec![metrics], requests, async {
            let _ = stopped.await;
        }));
        FakeDaemon { directory, socket, figures, stop, server }
    }

    /// Stops it as a daemon stops, and waits for that. The directory goes when the caller is done
    /// with what is left in it.
    pub(crate) async fn stop(self) -> TempDir {
        self.stop.send(()).expect("server waits for its end");
        self.server.await.expect("server does not panic").expect("server ends well");
        self.directory
    }
}

async fn answer(mut queue: mpsc::Receiver<Request>, status: Result<Status, String>) {
    while let Some(request) = queue.recv().await {
        match request {
            Request::Status(reply) => drop(reply.send(status.clone())),
            Request::Explain(query, reply) => drop(reply.send(explanation(query))),
            Request::Flows(query, reply) => drop(reply.send(flows(&query))),
            Request::Capture(query, reply) => drop(reply.send(capture(&query))),
            Request::DenyChange(change, reply) => drop(reply.send(deny(&change))),
            Request::ServerChange(change, reply) => drop(reply.send(server(&change))),
            Request::NodeChange(change, reply) => drop(reply.send(node(change))),
            Request::Reload(query, reply) => drop(reply.send(Ok(reloaded(query)))),
            Request::Edit(edit, reply) => drop(reply.send(Ok(edited(&edit)))),
            Request::Denied(query, reply) => drop(reply.send(denied(&query))),
        }
    }
}

/// Repeats parts of the query, so that a mix-up on the way shows.
pub(crate) fn explanation(query: ExplainQuery) -> Result<Explanation, String> {
    if query.to.port() != 80 {
        return Err(NO_PROGRAM.to_owned());
    }
    Ok(Explanation {
        service: Some(format!("web-{}", query.protocol)),
        slot: Some(query.from.port().into()),
        backend: Some(ChosenBackend { name: "backend1".to_owned(), address: query.to.ip(), port: 8080 }),
        flow: FlowState::Known,
        next_hop: Some(NextHop {
            interface: "back".to_owned(),
            mac: "02:00:5e:10:00:15".to_owned(),
            gateway: None,
        }),
        verdict: Verdict::Forward,
        reason: "forwarded".to_owned(),
    })
}

/// Knows one service; answers with the limit, so that a mix-up on the way shows.
pub(crate) fn flows(query: &FlowsQuery) -> Result<Flows, Refusal> {
    match query.service.as_deref() {
        Some("web") => {
            let nat = Counts { proven: query.limit.into(), ..Counts::default() };
            Ok(Flows { flow_table: None, nat, flows: Vec::new(), truncated: false })
        }
        other => Err(Refusal::Unknown(format!("no service is called {other:?}"))),
    }
}

/// One of the rules was there already; removing is refused.
pub(crate) fn deny(change: &DenyChange) -> Result<DenyChanged, Refusal> {
    match change.action {
        DenyAction::Add => {
            let counts = DenyCounts { prefixes: 1_234_567, configuration: 1, file: 2, command: 3 };
            Ok(DenyChanged { changed: change.rules.len() - 1, counts })
        }
        DenyAction::Remove => Err(Refusal::Unknown(format!("{} was not added", change.rules[0]))),
    }
}

/// Knows one service, where everything is ready; what is set for `b2` cannot be kept.
pub(crate) fn server(change: &ServerChange) -> Result<ServerChanged, Refusal> {
    if change.service != "web" {
        return Err(Refusal::Unknown(format!("no service is called `{}`", change.service)));
    }
    let before = Override::default();
    let now = match change.change {
        Change::State(state) => Override { state, ..before },
        Change::DrainFor(seconds) => Override { state: Admin::Drain, until: Some(seconds), ..before },
        Change::Weight(weight) => Override { weight: Some(weight), ..before },
        Change::Health(health) => Override { health, ..before },
    };
    let not_kept = (change.backend == "b2").then(|| "the disk is full".to_owned());
    Ok(ServerChanged { before, now, left_s: now.left(0), not_kept })
}

/// Was ready, at the second 1,000.
pub(crate) fn node(change: NodeChange) -> NodeChanged {
    let until = change.seconds.map(|seconds| 1_000 + seconds);
    NodeChanged { before: None, now: change.drain.then_some(Drained { until }), not_kept: None }
}

/// Would make a change, and refuses to.
pub(crate) fn reloaded(query: ReloadQuery) -> Reloaded {
    match query.dry_run {
        true => Reloaded {
            changes: vec!["service web: added".to_owned()],
            warnings: vec!["usher.toml:7: more".to_owned()],
            ..Reloaded::default()
        },
        false => Reloaded {
            refused: vec!["usher.toml:1: wrong".to_owned(), "usher.toml:2: wrong too".to_owned()],
            ..Reloaded::default()
        },
    }
}

/// Repeats the change, and cannot keep it; taking something away is refused.
pub(crate) fn edited(edit: &Edit) -> Reloaded {
    match edit {
        Edit::RemoveBackend { .. } | Edit::RemoveService { .. } => {
            Reloaded { refused: vec!["there is no such thing".to_owned()], ..Reloaded::default() }
        }
        edit => Reloaded {
            changes: vec![format!("{edit:?}")],
            not_kept: Some("the disk is full".to_owned()),
            ..Reloaded::default()
        },
    }
}

/// Two pages of one rule each.
pub(crate) fn denied(query: &DenyQuery) -> Denied {
    let rule = |text: &str| -> Rule { text.parse().expect("a rule") };
    let (first, second) = (rule("198.51.100.0/24"), rule("!2001:db8::7"));
    let listed = |rule, source, overridden| ListedRule { rule, source, overridden };
    Denied {
        counts: DenyCounts { prefixes: 2, file: 1, command: 1, ..DenyCounts::default() },
        rules: match query.after {
            None => vec![listed(first, Source::File, true)],
            Some(_) => vec![listed(second, Source::Command, false)],
        },
        next: query.after.is_none().then_some(first.prefix),
    }
}

/// A file of statistics alone, which repeat the query's count; without a count, a capture that is taken.
pub(crate) fn capture(query: &CaptureQuery) -> Result<mpsc::Receiver<Vec<u8>>, Refusal> {
    let count = query.count.ok_or_else(|| Refusal::Taken("another capture is running".to_owned()))?;
    let (sink, stream) = mpsc::channel(2);
    for piece in [pcapng::section("test"), pcapng::statistics(0, 1, 2, count)] {
        sink.try_send(piece).expect("room for two");
    }
    Ok(stream)
}
