//! What administrators set while the daemon runs, and the file that remembers it.

use std::{
    collections::BTreeMap,
    fs, io, mem,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use tracing::{error, info, warn};

use super::{names, state::State};
use crate::{
    admin::{NodeChange, NodeChanged, ServerChange, ServerChanged},
    api::Refusal,
    config::{Config, Edits},
    core::{
        admin::{Clock, Drained, Override, Overrides, Standing},
        health::Checked,
        ids::BackendId,
        plan,
    },
    unix_time::unix_seconds,
    whole_file,
};

/// The version of the file that this usher reads and writes.
const VERSION: u32 = 1;

/// What the file holds, as JSON.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    version: u32,
    #[serde(flatten)]
    set: Set,
}

/// Everything that was set.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Set {
    servers: Overrides,
    #[serde(default, skip_serializing_if = "Edits::is_empty")]
    edits: Edits,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    node: Option<Drained>,
}

/// Why the file cannot be read.
#[derive(Debug, thiserror::Error)]
enum Unreadable {
    #[error("cannot read it")]
    Io(#[from] io::Error),
    #[error("it is not what usher writes")]
    Json(#[from] serde_json::Error),
    #[error("it is of version {0}, and this usher reads version {VERSION}")]
    Version(u32),
}

/// What was set, and the file that remembers it.
pub(super) struct Administration {
    set: Set,
    file: PathBuf,
    /// The file does not say what is set.
    behind: bool,
}

impl Administration {
    /// What the file remembers. One that cannot be read keeps nobody from being served: it is said, and put aside.
    pub(super) fn read(file: &Path) -> Administration {
        let set = read(file).unwrap_or_else(|why| {
            let why = anyhow::Error::from(why);
            error!(file = %file.display(), "what administrators had set is not known: {why:#}");
            put_aside(file);
            Set::default()
        });
        if let Some(drained) = set.node {
            warn!(left_s = drained.left(unix_seconds()), "the node is drained; `usher node ready` ends that");
        }
        Administration { set, file: file.to_owned(), behind: false }
    }

    /// Begins with these of the changes to services and backends, which are in the configuration.
    pub(super) fn begin_with(&mut self, edits: Edits, config: &Config) {
        self.take_edits(edits);
        self.follow(config);
    }

    fn take_edits(&mut self, edits: Edits) {
        self.behind |= edits != self.set.edits;
        self.set.edits = edits;
    }

    /// What commands have added to the services and backends of the file, or taken away.
    pub(super) fn edits(&self) -> &Edits {
        &self.set.edits
    }

    /// Remembers other such changes; says why it cannot.
    pub(super) fn set_edits(&mut self, edits: Edits) -> Option<String> {
        self.take_edits(edits);
        self.keep_or_say_why()
    }

    /// One line for each thing that is set and that the file does not say, for people.
    pub(super) fn lines(&self) -> Vec<String> {
        let servers = self
            .set
            .servers
            .iter()
            .map(|(service, backend, set)| format!("server {service}/{backend}: {set}"));
        self.set.edits.lines().into_iter().chain(servers).collect()
    }

    /// Forgets what was set for backends that the configuration does not have.
    pub(super) fn follow(&mut self, config: &Config) {
        let forgotten = self.set.servers.retain(|service, backend| has(config, service, backend));
        for server in &forgotten {
            warn!("{server} is no longer in the configuration; what was set for it is forgotten");
        }
        self.behind |= !forgotten.is_empty();
    }

    /// Whether the node is drained, and for how many seconds more, if there is an end.
    pub(super) fn drained(&self) -> Option<Option<u64>> {
        self.set.node.map(|drained| drained.left(unix_seconds()))
    }

    /// What counts of a backend with this weight in the configuration that checks found like this.
    pub(super) fn standing(&self, id: &BackendId, configured: u16, checked: Option<&Checked>) -> Standing {
        self.counts(id, checked).standing(configured, checked.and_then(Checked::health))
    }

    /// What is set for a backend: by administrators and, where they set nothing, by its agent.
    pub(super) fn counts(&self, id: &BackendId, checked: Option<&Checked>) -> Override {
        let set = self.set.servers.get(&id.pool.service, &id.backend);
        checked.and_then(Checked::advice).map_or(set, |advice| set.over(advice))
    }

    /// Tries again to write the file.
    pub(super) fn catch_up(&mut self) {
        if self.behind && self.keep().is_ok() {
            info!(file = %self.file.display(), "what administrators have set is written down");
        }
    }

    /// Writes the file; says why it cannot.
    fn keep_or_say_why(&mut self) -> Option<String> {
        let why = self.keep().err()?;
        let file = self.file.display();
        error!(%file, "cannot write down what administrators have set; trying again each second: {why}");
        Some(format!("cannot write {file}: {why}"))
    }

    /// Writes the file, if it does not say what is set.
    fn keep(&mut self) -> io::Result<()> {
        if self.behind {
            write(&self.file, &self.set)?;
            self.behind = false;
        }
        Ok(())
    }
}

fn has(config: &Config, service: &str, backend: &str) -> bool {
    let mut services = config.services.iter().filter(|one| *one.name == *service);
    services.any(|one| one.backends.iter().any(|one| *one.name == *backend))
}

fn read(file: &Path) -> Result<Set, Unreadable> {
    let text = match fs::read(file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Set::default()),
        Err(error) => return Err(error.into()),
    };
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }
    match serde_json::from_slice(&text)? {
        Version { version: VERSION } => Ok(serde_json::from_slice::<Document>(&text)?.set),
        Version { version } => Err(Unreadable::Version(version)),
    }
}

/// Under another name, for whoever wants to know what it said: the next change would write over it.
fn put_aside(file: &Path) {
    let mut aside = file.as_os_str().to_owned();
    aside.push(".unreadable");
    match fs::rename(file, &aside) {
        Ok(()) => warn!(file = %aside.display(), "it is kept here"),
        Err(why) => warn!(file = %file.display(), "it cannot be renamed: {why}"),
    }
}

/// Writes a new file and puts it in the old one's place: whatever happens meanwhile, one of them is there whole.
fn write(file: &Path, set: &Set) -> io::Result<()> {
    let mut content = serde_json::to_vec_pretty(&Document { version: VERSION, set: set.clone() })?;
    content.push(b'\n');
    whole_file::write(file, &content)
}

impl State {
    /// Changes what is wanted of a backend; when it returns, that is in force.
    pub(super) fn change_server(&mut self, request: &ServerChange) -> Result<ServerChanged, Refusal> {
        let ServerChange { service, backend, change } = request;
        let services = names::services(&self.config, Some(service))?;
        names::check_backend(&services, Some(backend))?;
        let drain_timeout = services.iter().find_map(|service| service.flows.drain_timeout);
        let clock =
            Clock { now: unix_seconds(), drain_timeout: drain_timeout.map(|timeout| timeout.as_secs()) };
        let servers = &mut self.administration.set.servers;
        let before = servers.get(service, backend);
        *servers = mem::take(servers).changed(service, backend, *change, clock);
        let now = servers.get(service, backend);
        let left_s = now.left(clock.now);
        if now != before {
            info!(for_s = left_s, "server {service}/{backend}: {before} -> {now}");
            self.administration.behind = true;
            self.reconcile();
        }
        let not_kept = self.administration.keep_or_say_why();
        Ok(ServerChanged { before, now, left_s, not_kept })
    }

    /// Takes the node out of DNS, or back in; when it returns, that is in force.
    pub(super) fn change_node(&mut self, change: NodeChange) -> NodeChanged {
        let before = self.administration.set.node;
        let until = change.seconds.map(|seconds| unix_seconds().saturating_add(seconds));
        let now = change.drain.then_some(Drained { until });
        if now != before {
            match change.drain {
                true => info!(for_s = change.seconds, "the node is drained: its addresses leave DNS"),
                false => info!("the node is ready again"),
            }
            self.administration.set.node = now;
            self.administration.behind = true;
            self.reconcile();
        }
        NodeChanged { before, now, not_kept: self.administration.keep_or_say_why() }
    }

    /// Puts backends into maintenance whose drains are over.
    pub(super) fn end_server_drains(&mut self) {
        let ended = self.administration.set.servers.end_drains(unix_seconds());
        if ended.is_empty() {
            return;
        }
        let flows = match self.dataplane.count_flows(&plan::idle_limits(&self.config)) {
            Ok(flows) => flows.by_backend,
            Err(error) => {
                warn!(error = &error as &dyn std::error::Error, "cannot count what flows are left");
                BTreeMap::new()
            }
        };
        for (service, backend) in &ended {
            let left: u64 = self.numbers_of(service, backend).filter_map(|number| flows.get(&number)).sum();
            info!(flows = left, "server {service}/{backend}: the time of its drain is over: drain -> maint");
        }
        self.administration.behind = true;
        self.reconcile();
        // Said in the log, and tried again.
        drop(self.administration.keep_or_say_why());
    }

    /// Under which numbers the data path knows a backend, one for each of its families.
    fn numbers_of(&self, service: &str, backend: &str) -> impl Iterator<Item = u16> {
        let all = plan::pools(&self.config).flat_map(|(service, pool)| plan::backends(service, pool));
        all.filter(move |(_, id, _)| *id.pool.service == *service && *id.backend == *backend)
            .map(|(_, id, _)| self.planner.numbers().backend(&id))
    }

    /// Ends a drain of the node whose time is over.
    pub(super) fn end_drain(&mut self) {
        if self.administration.drained() == Some(Some(0)) {
            self.change_node(NodeChange { drain: false, seconds: None });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        process::{Command, Stdio},
        time::{Duration, Instant},
    };

    use super::*;
    use crate::core::admin::{Admin, Change};

    fn drained(backend: &str) -> Set {
        let change = Change::State(Admin::Drain);
        let servers = Overrides::default().changed("web", backend, change, Clock::default());
        Set { servers, ..Set::default() }
    }

    #[test]
    fn what_is_written_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("made/state.json");
        assert_eq!(read(&file).unwrap(), Set::default(), "nothing was ever set");
        let node = |until| Set { node: Some(Drained { until }), ..drained("b1") };
        for set in [drained("b1"), node(None), node(Some(1_900_000_000)), Set::default()] {
            write(&file, &set).unwrap();
            assert_eq!(read(&file).unwrap(), set);
        }
        assert_eq!(fs::read_dir(file.parent().unwrap()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn what_usher_did_not_write_is_told_from_what_a_later_one_wrote() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("state.json");
        for (text, why) in [
            ("", "it is not what usher writes"),
            (
                "{\"version\": 1, \"servers\": {\"web\": {\"b1\": {\"state\": \"dr",
                "it is not what usher writes",
            ),
            ("{\"version\": 1, \"servers\": {}, \"more\": 1}", "it is not what usher writes"),
            ("{\"version\": 2, \"services\": []}", "it is of version 2, and this usher reads version 1"),
        ] {
            fs::write(&file, text).unwrap();
            assert_eq!(read(&file).unwrap_err().to_string(), why, "{text}");
        }
        put_aside(&file);
        let aside = fs::read_to_string(directory.path().join("state.json.unreadable")).unwrap();
        assert_eq!(aside, "{\"version\": 2, \"services\": []}");
    }

    #[test]
    fn a_write_that_fails_leaves_the_old_file() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("state.json");
        write(&file, &drained("b1")).unwrap();
        // `persist` cannot put a file in a directory's place.
        let taken = directory.path().join("taken");
        fs::create_dir(&taken).unwrap();
        write(&taken, &drained("b2")).unwrap_err();
        write(Path::new("/proc/usher/state.json"), &drained("b2")).unwrap_err();
        assert_eq!(read(&file).unwrap(), drained("b1"));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2, "the failed one is gone");
    }

    const CHILD: &str = "USHER_TEST_WRITES_FOR_EVER";

    /// In the child: writes one of two states after the other, until it is killed.
    #[test]
    fn c49_a_crash_while_the_file_is_written_leaves_it_whole() {
        if let Some(file) = std::env::var_os(CHILD) {
            loop {
                write(Path::new(&file), &drained("b1")).unwrap();
                write(Path::new(&file), &drained("b2")).unwrap();
            }
        }
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("state.json");
        let this = std::env::current_exe().unwrap();
        let name = "daemon::admin::tests::c49_a_crash_while_the_file_is_written_leaves_it_whole";
        for round in 0..50 {
            let mut child = Command::new(&this)
                .args(["--exact", name])
                .env(CHILD, &file)
                .stdout(Stdio::null())
                .spawn()
                .unwrap();
            let begin = Instant::now();
            while !file.exists() && begin.elapsed() < Duration::from_secs(30) {
                std::thread::sleep(Duration::from_millis(1));
            }
            // At another point of a write each time.
            std::thread::sleep(Duration::from_micros(round * 137));
            child.kill().unwrap();
            child.wait().unwrap();
            let found = read(&file).unwrap();
            assert!([drained("b1"), drained("b2")].contains(&found), "{found:?}");
        }
    }
}
