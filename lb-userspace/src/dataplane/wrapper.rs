//! Running the loaded program on many frames in a row, behind a program that makes them: for the
//! benchmark.

use std::time::Duration;

use aya::{
    Ebpf, EbpfLoader, TestRun as _,
    maps::{Array, Map, MapData, ProgramArray},
    programs::{ProgramFd, TestRunOptions, Xdp},
};
use lb_common::{
    bench::{Plan, name},
    program,
};

use super::{Dataplane, DataplaneError, object::xdp_mut, tables::Pod};

/// The loaded wrapper program, which makes frames and hands each to the program that it is aimed at.
pub struct Wrapper {
    ebpf: Ebpf,
}

/// What became of many frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// What the program did with the last one, as the number in `enum xdp_action`; 0 (XDP_ABORTED) is the
    /// wrapper's when it could not make a frame or call the program.
    pub action: u32,
    /// Time per frame, the wrapper's own included; the kernel tells whole nanoseconds.
    pub per_frame: Duration,
}

impl Wrapper {
    /// Loads the benchmark's object.
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub fn load(object: &[u8]) -> Result<Wrapper, DataplaneError> {
        let mut ebpf = EbpfLoader::new().load(object).map_err(DataplaneError::Load)?;
        for name in [name::WRAPPER, name::NULL] {
            xdp_mut(&mut ebpf, name)?.load().map_err(|source| DataplaneError::Program { name, source })?;
        }
        Ok(Wrapper { ebpf })
    }

    /// From now on, frames go to this data path; with `None`, to a program that does nothing.
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub fn aim_at(&mut self, dataplane: Option<&Dataplane>) -> Result<(), DataplaneError> {
        let fd = match dataplane {
            Some(dataplane) => fd_of(dataplane.programs.get(program::USHER)?, program::USHER)?,
            None => fd_of(xdp_mut(&mut self.ebpf, name::NULL)?, name::NULL)?,
        };
        let error = |source| DataplaneError::Map { what: "set a program", map: name::TARGET, source };
        let map = self.map_mut(name::TARGET)?;
        let mut target: ProgramArray<&mut MapData> = map.try_into().map_err(error)?;
        target.set(0, &fd, 0).map_err(error)
    }

    /// Sets the list of answers: the backend's number in the upper half of each, the NAT port in the lower.
    ///
    /// # Errors
    /// When there are more than [`MAX_ANSWERS`](lb_common::bench::MAX_ANSWERS).
    pub fn set_answers(&mut self, answers: &[u32]) -> Result<(), DataplaneError> {
        let error = |source| DataplaneError::Map { what: "set an answer", map: name::ANSWERS, source };
        let mut list: Array<&mut MapData, u32> = self.map_mut(name::ANSWERS)?.try_into().map_err(error)?;
        (0..).zip(answers).try_for_each(|(index, answer)| list.set(index, answer, 0)).map_err(error)
    }

    /// Makes `count` frames by a plan. `frame` is one of them, for what the plan does not say: the payload.
    ///
    /// # Errors
    /// When the kernel refuses, or the call is interrupted by a signal.
    pub fn run(&mut self, plan: &Plan, frame: &[u8], count: u32) -> Result<Run, DataplaneError> {
        self.set_plan(plan)?;
        let name = name::WRAPPER;
        let options = TestRunOptions { data_in: Some(frame), repeat: count, ..TestRunOptions::default() };
        let result = xdp_mut(&mut self.ebpf, name)?
            .test_run(options)
            .map_err(|source| DataplaneError::Program { name, source })?;
        Ok(Run { action: result.return_value, per_frame: result.duration })
    }

    fn set_plan(&mut self, plan: &Plan) -> Result<(), DataplaneError> {
        let error = |source| DataplaneError::Map { what: "set the plan", map: name::PLAN, source };
        let mut plans: Array<&mut MapData, Pod<Plan>> =
            self.map_mut(name::PLAN)?.try_into().map_err(error)?;
        plans.set(0, Pod(*plan), 0).map_err(error)
    }

    fn map_mut(&mut self, name: &'static str) -> Result<&mut Map, DataplaneError> {
        self.ebpf.map_mut(name).ok_or(DataplaneError::Missing { kind: "map", name })
    }
}

/// A descriptor of a program.
fn fd_of(program: &Xdp, name: &'static str) -> Result<ProgramFd, DataplaneError> {
    let error = |source| DataplaneError::Program { name, source };
    program.fd().map_err(error)?.try_clone().map_err(|source| error(source.into()))
}
