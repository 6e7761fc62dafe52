//! The program on its interfaces: attached, taken over from an earlier daemon, left to a later one.

use std::io;

use aya::programs::ProgramError;
use lb_common::program;
use nix::net::if_::if_nametoindex;

use super::{
    Attached, Dataplane, DataplaneError, PinError, Pins,
    attach::{attach, os_error},
    sys,
};
use crate::config::XdpMode;

impl Dataplane {
    /// Those of these interfaces on which an earlier daemon's program is pinned.
    ///
    /// # Errors
    /// When there is no such interface.
    pub fn pinned_on(&self, interfaces: &[String]) -> Result<Vec<String>, DataplaneError> {
        let Some(pins) = &self.pins else { return Ok(Vec::new()) };
        let mut pinned = Vec::new();
        for name in interfaces {
            if pins.link(index_of(name)?)?.is_some() {
                pinned.push(name.clone());
            }
        }
        Ok(pinned)
    }

    /// Replaces, on each of these interfaces that has one pinned, an earlier daemon's program by this one, at once
    /// (BPF_LINK_UPDATE); the names of those that had. The mode stays.
    ///
    /// # Errors
    /// When the kernel refuses; every interface has the one or the other.
    pub fn take_over(&mut self, interfaces: &[String]) -> Result<Vec<String>, DataplaneError> {
        let Some(pins) = &self.pins else { return Ok(Vec::new()) };
        let program = self.programs.get_mut(program::USHER)?;
        let mut taken = Vec::new();
        for name in interfaces {
            let index = index_of(name)?;
            let Some(link) = pins.link(index)? else { continue };
            match program.attach_to_link(link) {
                Ok(link) => {
                    self.links.push(link);
                    taken.push(name.clone());
                }
                // An interface that had this number is gone.
                Err(error) if os_error(&error) == Some(libc::ENOLINK) => pins.remove_link(index)?,
                Err(error) => return Err(refused(error)),
            }
        }
        Ok(taken)
    }

    /// Attaches the program to all of these interfaces, or to none; an interface that has another program
    /// already is refused in any mode.
    ///
    /// All get the same mode: a native program's redirect to an interface whose driver takes no XDP frames
    /// loses every packet without a word. With [`XdpMode::Auto`] one interface that refuses native mode
    /// makes all of them generic.
    pub fn attach(&mut self, interfaces: &[String], mode: XdpMode) -> Result<Vec<Attached>, DataplaneError> {
        let program = self.programs.get_mut(program::USHER)?;
        let (attached, links) = attach(program, program::USHER, interfaces, mode)?;
        for (interface, id) in interfaces.iter().zip(links) {
            let id = match &self.pins {
                None => id,
                Some(pins) => {
                    let index = index_of(interface)?;
                    // One that has this number from an interface that is gone.
                    pins.remove_link(index)?;
                    let link = program.take_link(id).map_err(refused)?;
                    let link = pins.add_link(index, link)?;
                    program.attach_to_link(link).map_err(refused)?
                }
            };
            self.links.push(id);
        }
        Ok(attached)
    }

    /// Detaches what an earlier daemon had attached to other interfaces than these, and forgets its programs.
    ///
    /// # Errors
    /// When a pin cannot be removed.
    pub fn forget_others(&mut self, interfaces: &[String]) -> Result<(), DataplaneError> {
        let Some(pins) = &self.pins else { return Ok(()) };
        let indexes = interfaces.iter().map(|name| index_of(name)).collect::<Result<Vec<_>, _>>()?;
        pins.keep_links(&indexes)?;
        self.forget_programs();
        Ok(())
    }

    /// Forgets the programs that ran before. Their map of programs becomes empty when nobody holds it: not while one of
    /// them is at work.
    pub(super) fn forget_programs(&self) {
        sys::wait_for_packets();
        self.unpin_programs(Pins::keep_programs, "the replaced programs keep their memory");
    }

    /// Forgets the own programs, of which none runs.
    pub(super) fn forget_own_programs(&self) {
        let otherwise = "programs that never ran keep their memory; `usher detach` ends that";
        self.unpin_programs(Pins::remove_programs, otherwise);
    }

    /// Removes pins of programs, by this one's id, and says what it means if that fails.
    fn unpin_programs(&self, unpin: impl Fn(&Pins, u32) -> Result<(), PinError>, otherwise: &str) {
        let Some(pins) = &self.pins else { return };
        if let Err(error) = self.program_id().and_then(|program| Ok(unpin(pins, program)?)) {
            tracing::warn!(error = &error as &dyn std::error::Error, "{otherwise}");
        }
    }

    /// Leaves nothing to a later daemon: all is detached and unloaded when this value is dropped.
    ///
    /// # Errors
    /// When a pin cannot be removed.
    pub fn unpin(&mut self) -> Result<(), DataplaneError> {
        if let Some(pins) = self.pins.take() {
            Pins::remove(pins.root())?;
        }
        Ok(())
    }

    /// Where it is pinned, so that it outlives this process.
    pub fn pins(&self) -> Option<&Pins> {
        self.pins.as_ref()
    }
}

fn refused(source: ProgramError) -> DataplaneError {
    DataplaneError::Program { name: program::USHER, source }
}

fn index_of(interface: &str) -> Result<u32, DataplaneError> {
    if_nametoindex(interface).map_err(|error| DataplaneError::NoInterface {
        interface: interface.to_owned(),
        source: io::Error::from(error),
    })
}
