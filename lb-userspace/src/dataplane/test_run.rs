//! Running the loaded programs on single frames, by `BPF_PROG_TEST_RUN`.

use std::os::fd::{AsFd as _, BorrowedFd};

use aya::{
    TestRun as _,
    maps::{Array, HashMap, Map, MapData},
    programs::{TestRunOptions, Xdp},
};
use lb_common::{FragmentKey, FragmentPath, Trace, map, program};

use super::{Dataplane, DataplaneError, tables::Pod};

/// What the program did with a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TestRun {
    /// The action as its number in `enum xdp_action` (include/uapi/linux/bpf.h).
    pub action: u32,
    /// The frame afterwards.
    pub frame: Vec<u8>,
}

/// Bytes by which a frame may grow: a VLAN tag.
const GROWTH: usize = 64;

impl Dataplane {
    /// Runs the program on a frame as if it came in on lo, with all effects but sending it.
    ///
    /// # Errors
    /// The kernel takes frames from 14 bytes to somewhat less than a page.
    pub fn test_run(&self, frame: &[u8]) -> Result<TestRun, DataplaneError> {
        self.run(program::USHER, frame)
    }

    /// Runs the explain program on a frame: what would become of it, without any effect.
    ///
    /// # Errors
    /// As for [`Dataplane::test_run`].
    pub fn explain_frame(&mut self, frame: &[u8]) -> Result<Trace, DataplaneError> {
        self.run(program::EXPLAIN, frame)?;
        let error = |source| DataplaneError::Map { what: "read the trace", map: map::TRACE, source };
        let traces: Array<&MapData, Pod<Trace>> = self.maps.get(map::TRACE)?.try_into().map_err(error)?;
        Ok(traces.get(&0, 0).map_err(error)?.0)
    }

    /// Replaces what is remembered of first fragments, or forgets it, for tests that cannot wait.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn change_fragments(
        &mut self,
        change: impl Fn(FragmentPath) -> Option<FragmentPath>,
    ) -> Result<(), DataplaneError> {
        let error = |source| DataplaneError::Map { what: "change the elements", map: map::FRAGMENTS, source };
        let found = self.maps.get_mut(map::FRAGMENTS)?;
        let mut paths: HashMap<_, Pod<FragmentKey>, Pod<FragmentPath>> = found.try_into().map_err(error)?;
        let all = paths.iter().collect::<Result<Vec<_>, _>>().map_err(error)?;
        for (key, path) in all {
            match change(path.0) {
                Some(path) => paths.insert(key, Pod(path), 0).map_err(error)?,
                None => paths.remove(&key).map_err(error)?,
            }
        }
        Ok(())
    }

    /// The descriptor of one of the tables that the program writes, for tests that look into them.
    ///
    /// # Errors
    /// When the object has no such map.
    pub fn map_fd(&self, name: &'static str) -> Result<BorrowedFd<'_>, DataplaneError> {
        match self.maps.get(name)? {
            Map::Array(data) | Map::ArrayOfMaps(data) | Map::LruHashMap(data) => Ok(data.fd().as_fd()),
            _ => Err(DataplaneError::Missing { kind: "map", name }),
        }
    }

    pub(super) fn run(&self, name: &'static str, frame: &[u8]) -> Result<TestRun, DataplaneError> {
        run(self.programs.get(name)?, name, frame)
    }
}

/// Runs a program on a frame.
pub(super) fn run(program: &Xdp, name: &'static str, frame: &[u8]) -> Result<TestRun, DataplaneError> {
    let mut out = vec![0; frame.len() + GROWTH];
    let options =
        TestRunOptions { data_in: Some(frame), data_out: Some(&mut out), ..TestRunOptions::default() };
    let result = program.test_run(options).map_err(|source| DataplaneError::Program { name, source })?;
    out.truncate(result.data_size_out as usize);
    Ok(TestRun { action: result.return_value, frame: out })
}
