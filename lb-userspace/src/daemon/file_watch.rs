//! Hears of changes of the configuration's file.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use notify::{Event, RecommendedWatcher, RecursiveMode, Watcher as _, recommended_watcher};
use tokio::{
    sync::{Notify, mpsc},
    task::JoinHandle,
    time::sleep,
};

/// A file that was just changed may be changed further: for so long it must stay as it is.
const QUIET: Duration = Duration::from_millis(500);

/// The running watch. Dropping it ends it.
pub(super) struct FileWatch {
    _watcher: RecommendedWatcher,
    task: JoinHandle<()>,
}

impl FileWatch {
    /// From now on sends a word whenever the file has changed, however that is done.
    ///
    /// # Errors
    /// When the file's directory cannot be watched.
    pub(super) fn start(path: &Path, changed: mpsc::Sender<()>) -> notify::Result<FileWatch> {
        let (stirred, file) = (Arc::new(Notify::new()), path.to_owned());
        let known = Stamp::of(path);
        let wake = stirred.clone();
        let mut watcher = recommended_watcher(move |event: notify::Result<Event>| {
            // Reading it changes nothing. After an error (events that were lost) it may have changed.
            if !event.is_ok_and(|event| event.kind.is_access()) {
                wake.notify_one();
            }
        })?;
        // Not the file: editors put another one in its place.
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        watcher.watch(directory.unwrap_or(Path::new(".")), RecursiveMode::NonRecursive)?;
        Ok(FileWatch { _watcher: watcher, task: tokio::spawn(run(file, known, stirred, changed)) })
    }
}

impl Drop for FileWatch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Looks at the file whenever its directory has stirred. Ends when nobody receives any more.
async fn run(path: PathBuf, mut known: Option<Stamp>, stirred: Arc<Notify>, changed: mpsc::Sender<()>) {
    loop {
        stirred.notified().await;
        let mut found = Stamp::of(&path);
        if found == known {
            continue;
        }
        while {
            known = found;
            sleep(QUIET).await;
            found = Stamp::of(&path);
            found != known
        } {}
        if changed.send(()).await.is_err() {
            return;
        }
    }
}

/// What differs when a file, or the one that a link leads to, is another one or was changed.
#[derive(PartialEq)]
struct Stamp {
    device: u64,
    inode: u64,
    changed: (i64, i64),
}

impl Stamp {
    /// `None`: there is no file.
    fn of(path: &Path) -> Option<Stamp> {
        let found = fs::metadata(path).ok()?;
        let changed = (found.ctime(), found.ctime_nsec());
        Some(Stamp { device: found.dev(), inode: found.ino(), changed })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use tokio::time::timeout;

    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn every_way_to_change_a_file_is_told_once() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let path = at("usher.toml");
        fs::write(&path, "old").unwrap();
        let (send, mut changed) = mpsc::channel(4);
        let _watch = FileWatch::start(&path, send).unwrap();
        let ways: [(&str, &dyn Fn()); 4] = [
            ("written in steps", &|| {
                fs::write(&path, "").unwrap();
                fs::write(&path, "new").unwrap();
            }),
            ("replaced", &|| {
                fs::write(at("new"), "new").unwrap();
                fs::rename(at("new"), &path).unwrap();
            }),
            ("replaced by a link", &|| {
                fs::write(at("target"), "new").unwrap();
                fs::remove_file(&path).unwrap();
                symlink(at("target"), &path).unwrap();
            }),
            ("changed behind the link", &|| fs::write(at("target"), "newer").unwrap()),
        ];
        for (way, change) in ways {
            change();
            timeout(LONG, changed.recv()).await.unwrap_or_else(|_| panic!("{way}: nothing is told"));
        }
        fs::write(at("other"), "").unwrap();
        fs::read(&path).unwrap();
        assert!(
            timeout(QUIET * 2, changed.recv()).await.is_err(),
            "something is told twice, or of another file"
        );
    }

    #[tokio::test]
    async fn a_directory_that_is_not_there_cannot_be_watched() {
        let (send, _changed) = mpsc::channel(1);
        assert!(FileWatch::start(Path::new("/nonexistent/usher.toml"), send).is_err());
    }
}
