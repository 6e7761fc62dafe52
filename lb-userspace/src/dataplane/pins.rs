//! Where the data path stays while no daemon runs: its maps and links, pinned in a BPF file system.
//!
//! ```text
//! /sys/fs/bpf/usher/     `pin_dir` in [node]
//!   layout-2/            see [`LAYOUT`]
//!     maps/FLOWS …       the maps that are worth keeping
//!     programs/1234      the map of programs that belongs to the program with this id
//!     links/2            the program on the interface with this index
//! ```
//!
//! The kernel forgets it all at a reboot. Names hold no dots: bpffs refuses them.

use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use aya::{
    maps::{Map, MapData},
    programs::{
        links::{FdLink, PinnedLink},
        xdp::XdpLink,
    },
};
use lb_common::LAYOUT;
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

/// Why something is not pinned, or what is pinned cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// There is no BPF file system.
    #[error("{dir} is not in a BPF file system; mount one: mount -t bpf bpf /sys/fs/bpf", dir = .0.display())]
    NotBpffs(PathBuf),
    /// There is one, but not for us.
    #[error("cannot make {dir}", dir = .dir.display())]
    NoDirectory {
        /// The directory.
        dir: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// A directory or pin cannot be pinned, opened, read or removed.
    #[error("cannot {what} {path}", path = .path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// Another version of usher has left its data path.
    #[error(
        "{dir} holds the data path of another version of usher, which this one cannot take over; it forwards packets \
         until you remove it: `usher node drain` by that version, then `usher detach`, which ends all connections",
        dir = .0.display()
    )]
    OtherLayout(PathBuf),
    /// Somebody has removed a part of what is pinned.
    #[error(
        "{missing} is missing, so the data path that runs cannot be taken over; `usher detach` removes it, which ends all \
         connections",
        missing = .0.display()
    )]
    Damaged(PathBuf),
    /// A pinned map is not what its name says.
    #[error(
        "the pinned map {map} is of another kind than this version of usher needs; `usher detach` removes what is pinned, \
         which ends all connections"
    )]
    OtherKind {
        /// Its name.
        map: &'static str,
    },
}

/// The directory of a node's data path.
#[derive(Debug, Clone)]
pub struct Pins {
    root: PathBuf,
    own: PathBuf,
}

impl Pins {
    /// The directory, which is made if it is not there.
    ///
    /// # Errors
    /// When it is in no BPF file system, cannot be made, or another version of usher has left something there.
    pub fn open(root: &Path) -> Result<Pins, PinError> {
        if !is_bpffs(root) {
            return Err(PinError::NotBpffs(root.to_owned()));
        }
        let own = root.join(format!("{LAYOUT_PREFIX}{LAYOUT}"));
        let pins = Pins { root: root.to_owned(), own };
        for dir in [MAPS, PROGRAMS, LINKS] {
            let dir = pins.own.join(dir);
            let mut builder = DirBuilder::new();
            builder.recursive(true).mode(0o700);
            builder.create(&dir).map_err(|source| PinError::NoDirectory { dir, source })?;
        }
        for other in layouts(root)?.into_iter().filter(|dir| *dir != pins.own) {
            if !list(&other.join(LINKS))?.is_empty() {
                return Err(PinError::OtherLayout(other));
            }
        }
        Ok(pins)
    }

    /// The directory that was opened.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Removes all that any version of usher has pinned there, so that the kernel detaches it. Whether there was something.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub fn remove(root: &Path) -> Result<bool, PinError> {
        if !is_bpffs(root) {
            return Err(PinError::NotBpffs(root.to_owned()));
        }
        let mut found = false;
        for layout in layouts(root)? {
            // Links first: a program never runs without its maps, but a map without its programs does no harm.
            for dir in [LINKS, PROGRAMS, MAPS] {
                found |= !list(&layout.join(dir))?.is_empty();
                remove_all(&layout.join(dir))?;
            }
            remove_all(&layout)?;
        }
        // It may be that of the file system, or hold what is not ours.
        let _ = fs::remove_dir(root);
        Ok(found)
    }

    /// A map, if it is pinned.
    pub(super) fn map(&self, pin: &str) -> Result<Option<Map>, PinError> {
        let path = self.map_path(pin);
        if !path.exists() {
            return Ok(None);
        }
        let opened = MapData::from_pin(&path).and_then(Map::from_map_data);
        opened.map(Some).map_err(|error| other_error("open", &path, error))
    }

    /// Where a map is, or would be.
    pub(super) fn map_path(&self, pin: &str) -> PathBuf {
        self.own.join(MAPS).join(pin)
    }

    /// Pins a map in the place of any other one with that name.
    pub(super) fn set_map(&self, pin: &str, map: &Map) -> Result<(), PinError> {
        let (path, new) = (self.map_path(pin), self.map_path(&format!("{pin}-new")));
        let _ = fs::remove_file(&new);
        pin_map(map, &new)?;
        fs::rename(&new, &path).map_err(|source| file_error("rename to", &path, source))
    }

    /// Removes pins of maps that are not among these.
    pub(super) fn keep_maps(&self, pins: &[String]) -> Result<(), PinError> {
        let kept: Vec<_> = pins.iter().map(|pin| self.map_path(pin)).collect();
        remove_others(&self.own.join(MAPS), |path| kept.iter().any(|kept| kept == path))
    }

    /// Pins the map of programs that belongs to a program.
    pub(super) fn add_programs(&self, program: u32, map: &Map) -> Result<(), PinError> {
        let path = self.own.join(PROGRAMS).join(program.to_string());
        let _ = fs::remove_file(&path);
        pin_map(map, &path)
    }

    /// Removes the pins of all other maps of programs.
    pub(super) fn keep_programs(&self, program: u32) -> Result<(), PinError> {
        remove_others(&self.own.join(PROGRAMS), |path| number_of(path) == Some(program))
    }

    /// Removes the pin of a program's map of programs.
    pub(super) fn remove_programs(&self, program: u32) -> Result<(), PinError> {
        remove_others(&self.own.join(PROGRAMS), |path| number_of(path) != Some(program))
    }

    /// Whether there is a link.
    pub(super) fn has_links(&self) -> Result<bool, PinError> {
        Ok(!list(&self.own.join(LINKS))?.is_empty())
    }

    /// The program on an interface.
    pub(super) fn link(&self, interface: u32) -> Result<Option<XdpLink>, PinError> {
        let path = self.link_path(interface);
        if !path.exists() {
            return Ok(None);
        }
        let opened = PinnedLink::from_pin(&path).map(FdLink::from).and_then(XdpLink::try_from);
        opened.map(Some).map_err(|error| other_error("open", &path, error))
    }

    /// Pins the program on an interface.
    pub(super) fn add_link(&self, interface: u32, link: XdpLink) -> Result<XdpLink, PinError> {
        let path = self.link_path(interface);
        let link = FdLink::try_from(link).map_err(|error| other_error("pin", &path, error))?;
        let pinned = link.pin(&path).map_err(|error| other_error("pin", &path, error))?;
        XdpLink::try_from(FdLink::from(pinned)).map_err(|error| other_error("pin", &path, error))
    }

    /// Removes the pin of the program on an interface.
    pub(super) fn remove_link(&self, interface: u32) -> Result<(), PinError> {
        remove_others(&self.own.join(LINKS), |path| number_of(path) != Some(interface))
    }

    /// Removes the pins of programs on other interfaces than these.
    pub(super) fn keep_links(&self, interfaces: &[u32]) -> Result<(), PinError> {
        let is_kept = |path: &Path| number_of(path).is_some_and(|index| interfaces.contains(&index));
        remove_others(&self.own.join(LINKS), is_kept)
    }

    fn link_path(&self, interface: u32) -> PathBuf {
        self.own.join(LINKS).join(interface.to_string())
    }
}

const LAYOUT_PREFIX: &str = "layout-";
const MAPS: &str = "maps";
const PROGRAMS: &str = "programs";
const LINKS: &str = "links";

/// Whether a directory is, or would be, in a BPF file system.
fn is_bpffs(dir: &Path) -> bool {
    let found = dir.ancestors().find_map(|dir| statfs(dir).ok());
    found.is_some_and(|found| found.filesystem_type() == BPF_FS_MAGIC)
}

/// The directories of all versions.
fn layouts(root: &Path) -> Result<Vec<PathBuf>, PinError> {
    let is_one = |path: &PathBuf| {
        path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(LAYOUT_PREFIX))
    };
    Ok(list(root)?.into_iter().filter(is_one).collect())
}

/// What is in a directory; nothing in one that is not there.
fn list(dir: &Path) -> Result<Vec<PathBuf>, PinError> {
    let error = |source| file_error("read", dir, source);
    match fs::read_dir(dir) {
        Err(source) if source.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(source) => Err(error(source)),
        Ok(entries) => entries.map(|entry| Ok(entry.map_err(error)?.path())).collect(),
    }
}

/// Removes the pins in a directory but for those that are kept.
fn remove_others(dir: &Path, is_kept: impl Fn(&Path) -> bool) -> Result<(), PinError> {
    let others = list(dir)?.into_iter().filter(|path| !is_kept(path));
    others
        .into_iter()
        .try_for_each(|path| fs::remove_file(&path).map_err(|source| file_error("remove", &path, source)))
}

/// Removes a directory with the pins in it.
fn remove_all(dir: &Path) -> Result<(), PinError> {
    remove_others(dir, |_| false)?;
    fs::remove_dir(dir).map_err(|source| file_error("remove", dir, source))
}

fn number_of(path: &Path) -> Option<u32> {
    path.file_name()?.to_str()?.parse().ok()
}

fn pin_map(map: &Map, path: &Path) -> Result<(), PinError> {
    map.pin(path).map_err(|error| other_error("pin", path, error))
}

fn file_error(what: &'static str, path: &Path, source: io::Error) -> PinError {
    PinError::File { what, path: path.to_owned(), source }
}

fn other_error(
    what: &'static str,
    path: &Path,
    error: impl std::error::Error + Send + Sync + 'static,
) -> PinError {
    file_error(what, path, io::Error::other(error))
}
