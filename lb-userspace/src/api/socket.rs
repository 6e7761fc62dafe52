//! The control socket: made with tight permissions, never taken from a daemon that lives.

use std::{
    fs::{self, DirBuilder, File, Permissions},
    io::{self, ErrorKind},
    os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt},
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    sys::stat::{Mode, fchmod},
};
use thiserror::Error;
use tokio::{
    net::{UnixListener, UnixSocket, UnixStream},
    time::{Duration, Instant, sleep},
};

/// Root, and the group of the directory's owner; nobody else.
const SOCKET_MODE: u32 = 0o660;
/// Of directories that are made on the way to the socket.
const DIRECTORY_MODE: u32 = 0o755;
/// Connections that may wait to be accepted.
const BACKLOG: u32 = 64;

/// How long a daemon that answers is taken for one that is dying, and how often it is asked.
const DYING: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(50);

/// A listening control socket.
#[derive(Debug)]
pub struct ControlSocket {
    pub(super) listener: UnixListener,
    pub(super) path: PathBuf,
}

impl ControlSocket {
    /// Listens at `path`, mode 0660; missing parent directories are made, mode 0755. A socket file
    /// on which nobody listens is what a killed daemon leaves behind, and is replaced.
    ///
    /// # Errors
    /// When another usher has the socket, something else has the path, or the file system refuses.
    pub async fn bind(path: &Path) -> Result<Self, BindError> {
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        create_directory(parent)
            .map_err(|source| BindError::Directory { directory: parent.to_owned(), source })?;
        let _starting = lock(parent, path)?;
        clear(path).await?;
        let listener = listen(path).map_err(|source| BindError::Bind { path: path.to_owned(), source })?;
        Ok(ControlSocket { listener, path: path.to_owned() })
    }
}

/// Why there is no control socket.
#[derive(Debug, Error)]
pub enum BindError {
    /// A daemon answers there.
    #[error("another usher runs: it answers at {}", path.display())]
    AnotherRuns {
        /// The socket.
        path: PathBuf,
    },
    /// A daemon is between looking at the path and listening on it.
    #[error("another usher is starting: it holds the lock on the directory of {}", path.display())]
    AnotherStarts {
        /// The socket.
        path: PathBuf,
    },
    /// The path belongs to somebody else.
    #[error("{} exists and is not a socket; remove it, or set another `socket` in [node]", path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// The directory could not be made or locked.
    #[error("cannot use the socket's directory {}", directory.display())]
    Directory {
        /// The directory.
        directory: PathBuf,
        /// What the file system said.
        source: io::Error,
    },
    /// What is at the path could not be found out or removed.
    #[error("cannot tell whether {} is in use", path.display())]
    Inspect {
        /// The path.
        path: PathBuf,
        /// What the file system said.
        source: io::Error,
    },
    /// Binding failed.
    #[error("cannot listen on {}", path.display())]
    Bind {
        /// The path.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Makes what is missing; existing directories keep their modes.
fn create_directory(directory: &Path) -> io::Result<()> {
    if directory.exists() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(directory)?;
    // A umask of 077 would lock the group out.
    fs::set_permissions(directory, Permissions::from_mode(DIRECTORY_MODE))
}

/// Two daemons that start together would both find a stale file, and the second would remove the
/// first one's fresh socket.
fn lock(directory: &Path, path: &Path) -> Result<Flock<File>, BindError> {
    let failed = |source| BindError::Directory { directory: directory.to_owned(), source };
    let file = File::open(directory).map_err(failed)?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        Errno::EWOULDBLOCK => BindError::AnotherStarts { path: path.to_owned() },
        errno => failed(errno.into()),
    })
}

/// Frees the path if only a dead daemon's socket is there.
async fn clear(path: &Path) -> Result<(), BindError> {
    let failed = |source| BindError::Inspect { path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(BindError::NotASocket { path: path.to_owned() });
        }
        Ok(_) => {}
    }
    match connect(path).await {
        // A full backlog is a daemon that hangs, but has not died.
        Err(error) if error.kind() == ErrorKind::WouldBlock => {
            Err(BindError::AnotherRuns { path: path.to_owned() })
        }
        Ok(_) => Err(BindError::AnotherRuns { path: path.to_owned() }),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            tracing::info!(socket = %path.display(), "replacing the socket of a daemon that is gone");
            fs::remove_file(path).map_err(failed)
        }
        // A daemon that ends in good order removes it.
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed(error)),
    }
}

/// A daemon that was killed may still seem to answer while its threads end.
async fn connect(path: &Path) -> io::Result<UnixStream> {
    let deadline = Instant::now() + DYING;
    loop {
        let result = UnixStream::connect(path).await;
        let is_decided = result.as_ref().is_err_and(|error| error.kind() != ErrorKind::ConnectionReset);
        if is_decided || Instant::now() >= deadline {
            return result;
        }
        sleep(LOOK).await;
    }
}

fn listen(path: &Path) -> io::Result<UnixListener> {
    let socket = UnixSocket::new_stream()?;
    // bind(2) makes the file with the socket's own mode less the umask: set before it, there is no
    // moment in which others may connect; set after it too, the umask takes nothing away.
    fchmod(&socket, Mode::from_bits_truncate(SOCKET_MODE))?;
    socket.bind(path)?;
    fs::set_permissions(path, Permissions::from_mode(SOCKET_MODE))?;
    socket.listen(BACKLOG)
}
