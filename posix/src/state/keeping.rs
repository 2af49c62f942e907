//! What a server does with `-state`: its calls, and what it says.

use std::path::Path;

use distcache_core::seal::Keys;
use distcache_core::table::Line;
use distcache_core::{Array, Instant, Table};

use super::file::{Restored, restore};
use super::keeper::Keeper;
use super::{Config, Loaded, Stamp};
use crate::process::start::Started;
use crate::seal_keys::KeyFile;
use crate::server::RunError;

/// The least time between two lines about failures, in milliseconds.
const QUIET: u64 = 10_000;

/// The state of a server that may have none.
pub(crate) struct Keeping(Option<Kept>);

struct Kept {
    config: Config,
    keeper: Keeper,
    /// The key file, and the keys as they were read last.
    keys: Option<(KeyFile, Box<Keys>)>,
    /// When the last failure was reported.
    reported_at: Option<Instant>,
}

impl Keeping {
    /// Starts the writer. To be called with one thread, after the change of user and before memory is
    /// allocated.
    ///
    /// # Errors
    /// [`RunError::State`]: the directory cannot be written to.
    pub(crate) fn start(config: Option<&Config>, started: &mut Started) -> Result<Self, RunError> {
        let Some(config) = config.cloned() else { return Ok(Self(None)) };
        let key_file = config.seal_keys.as_deref().map(KeyFile::new);
        let keys = key_file.map(|file| Ok((file.clone(), Box::new(file.read()?)))).transpose();
        let keys = keys.map_err(RunError::SealKeys)?;
        if let Some(dir) = config.seal_keys.as_deref().and_then(Path::parent) {
            started.permit(|permit| permit.read(dir));
        }
        let keeper = Keeper::start(&config, started.is_sandboxed());
        let keeper =
            keeper.map_err(|error| RunError::State(config.path.clone(), error.to_string()))?;
        Ok(Self(Some(Kept { config, keeper, keys, reported_at: None })))
    }

    /// Loads the state file into the empty table, and says what came of it.
    ///
    /// # Errors
    /// [`RunError::State`]: the file was loaded and cannot be removed.
    pub(crate) fn restore<M: Array<Line>>(
        &mut self,
        table: &mut Table<M>,
        max_ttl: u32,
        started: &Started,
    ) -> Result<(), RunError> {
        let Some(Kept { config, keys, .. }) = &self.0 else { return Ok(()) };
        let (path, stamp) = (&config.path, Stamp::at(Instant::ORIGIN));
        let restored = restore(path, config.every.is_some(), table, stamp, max_ttl, seal(keys));
        let restored = restored.map_err(|error| {
            RunError::State(path.clone(), format!("cannot remove it after it was read: {error}"))
        })?;
        let path = path.display();
        match restored {
            Restored::None => {}
            Restored::Loaded(Loaded { read, stored }) if u64::from(stored) == read => {
                started.info(format_args!("restored {read} sessions from {path}"));
            }
            Restored::Loaded(Loaded { read, stored }) => started.info(format_args!(
                "restored {stored} of {read} sessions from {path}: the others have expired or do not fit"
            )),
            Restored::Refused(error, Ok(aside)) => started.warn(&format!(
                "starts without sessions: the state file {path} is refused: {error}; kept as {}",
                aside.display()
            )),
            Restored::Refused(error, Err(kept)) => started.warn(&format!(
                "starts without sessions: the state file {path} is refused: {error}; it cannot be \
                 renamed: {kept}"
            )),
        }
        Ok(())
    }

    /// Starts with the sessions of a running server instead of the file's. The file is removed unless it is
    /// written anew: it is older than those sessions.
    pub(crate) fn skip(&self) {
        if let Some(Kept { config, .. }) =
            self.0.as_ref().filter(|kept| kept.config.every.is_none())
        {
            // If that fails, so does the end of this server, which says why.
            let _ = rustix::fs::unlink(&config.path);
        }
    }

    /// When there is something to write.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.0.as_ref()?.keeper.deadline()
    }

    /// Writes a piece of the state if that is due. Failures are said at most once in ten seconds.
    pub(crate) fn turn<M: Array<Line>>(
        &mut self,
        now: Instant,
        table: &Table<M>,
        started: &Started,
    ) {
        let Some(Kept { config, keeper, keys, reported_at }) = &mut self.0 else { return };
        let Err(error) = keeper.turn(now, table, seal(keys)) else { return };
        if reported_at.is_none_or(|at| now.since(at) >= QUIET) {
            *reported_at = Some(now);
            let path = config.path.display();
            started.info(format_args!("the state was not written to {path}: {error}"));
        }
    }

    /// Reads the key file again. Keys that were read before stay if it is refused.
    pub(crate) fn reload(&mut self, started: &Started) {
        let Some(Kept { keys: Some((file, keys)), .. }) = &mut self.0 else { return };
        match file.read() {
            Ok(read) => {
                **keys = read;
                let (count, path) = (keys.len(), file.path().display());
                started.info(format_args!("read {count} keys from {path}"));
            }
            Err(error) => started.info(format_args!("the old keys stay: {error}")),
        }
    }

    /// Writes the state at the end of the server.
    pub(crate) fn finish<M: Array<Line>>(self, now: Instant, table: &Table<M>, started: &Started) {
        let Some(Kept { config, keeper, keys, .. }) = self.0 else { return };
        let path = config.path.display();
        match keeper.finish(now, table, seal(&keys)) {
            Ok(sessions) => started.info(format_args!("wrote {sessions} sessions to {path}")),
            Err(error) => {
                started.info(format_args!("the state was not written to {path}: {error}"));
            }
        }
    }
}

fn seal(keys: &Option<(KeyFile, Box<Keys>)>) -> Option<&Keys> {
    keys.as_ref().map(|(_, keys)| &**keys)
}
