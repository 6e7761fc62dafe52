//! Replacing the running programs by a load with other features, without losing a packet or a flow.

use std::mem;

use aya::programs::xdp::XdpLinkId;
use lb_common::{Features, program};

use super::{
    Dataplane, DataplaneError,
    attach::os_error,
    object::{self, Programs},
};

impl Dataplane {
    /// What the running programs can do.
    pub fn features(&self) -> Features {
        self.features
    }

    /// Loads the object again with these features, over the same maps, and replaces the attached program on
    /// every interface. A packet meets the old programs or the new ones, never both.
    ///
    /// # Errors
    /// When the kernel refuses the programs: then all is as before. When it refuses to replace one: then that
    /// interface has none.
    pub fn set_features(&mut self, features: Features) -> Result<(), DataplaneError> {
        let programs = object::load_again(&self.maps, features)?;
        self.replace(programs, features)
    }

    /// Replaces the running programs.
    pub(super) fn replace(&mut self, programs: Programs, features: Features) -> Result<(), DataplaneError> {
        if let Some(pins) = &self.pins {
            pins.add_programs(programs.id()?, programs.next())?;
        }
        let mut old = mem::replace(&mut self.programs, programs);
        self.features = features;
        let mut result = Ok(());
        for link in mem::take(&mut self.links) {
            match self.move_link(&mut old, link) {
                Ok(link) => self.links.push(link),
                // The interface is gone.
                Err(DataplaneError::Program { source, .. }) if os_error(&source) == Some(libc::ENOLINK) => {}
                Err(error) => result = Err(error),
            }
        }
        self.forget_programs();
        result
    }

    /// Moves an interface from the old program to the new one, at once (BPF_LINK_UPDATE).
    fn move_link(&mut self, old: &mut Programs, link: XdpLinkId) -> Result<XdpLinkId, DataplaneError> {
        let name = program::USHER;
        let error = |source| DataplaneError::Program { name, source };
        let link = old.get_mut(name)?.take_link(link).map_err(error)?;
        self.programs.get_mut(name)?.attach_to_link(link).map_err(error)
    }
}
