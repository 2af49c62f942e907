//! Resolving host names without blocking the event loop.
//!
//! The system's resolver may block for seconds. An address that needs it gets a thread, which resolves
//! on request and then wakes the loop. A numeric address is resolved once, at start.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use crate::net::address::{Address, ResolveError, Targets};

/// The result of a resolution.
pub type Answer = Result<Targets, ResolveError>;

/// Resolves one address, each time on [`request`](Self::request).
///
/// When it is dropped, its thread ends as soon as the system's resolver returns.
#[derive(Debug)]
pub struct Resolver(Kind);

impl Resolver {
    /// A resolver of `address`. It calls `wake`, on another thread, whenever an answer has arrived.
    ///
    /// Call it after detaching and before the loop, since it may start a thread.
    ///
    /// # Errors
    /// The system's error if it cannot start the thread.
    pub fn new(address: &Address, wake: impl Fn() + Send + 'static) -> io::Result<Self> {
        if address.is_numeric() {
            let answer = Box::new(address.resolve());
            return Ok(Self(Kind::Known { answer, requested: false }));
        }
        let shared = Arc::new(Shared::default());
        let address = address.clone();
        let theirs = Arc::clone(&shared);
        thread::Builder::new()
            .name("resolver".into())
            .spawn(move || work(&theirs, || address.resolve(), wake))?;
        Ok(Self(Kind::Asked(shared)))
    }

    /// Requests an answer. Drops an earlier answer that was not taken. A second request before the
    /// answer has no effect.
    pub fn request(&mut self) {
        match &mut self.0 {
            Kind::Known { requested, .. } => *requested = true,
            Kind::Asked(shared) => {
                let mut state = shared.lock();
                state.wanted = true;
                state.answer = None;
                shared.changed.notify_one();
            }
        }
    }

    /// Takes the answer to the last request; `None` before it arrives, and after it was taken.
    pub fn take(&mut self) -> Option<Answer> {
        match &mut self.0 {
            Kind::Known { answer, requested } => {
                std::mem::take(requested).then(|| Answer::clone(answer))
            }
            Kind::Asked(shared) => shared.lock().answer.take(),
        }
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        if let Kind::Asked(shared) = &self.0 {
            shared.lock().ended = true;
            shared.changed.notify_one();
        }
    }
}

#[derive(Debug)]
enum Kind {
    Known { answer: Box<Answer>, requested: bool },
    Asked(Arc<Shared>),
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    wanted: bool,
    ended: bool,
    answer: Option<Answer>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that can panic runs under the lock, so the state is intact.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn work(shared: &Shared, resolve: impl Fn() -> Answer, wake: impl Fn()) {
    loop {
        let guard = shared
            .changed
            .wait_while(shared.lock(), |state| !state.wanted && !state.ended)
            .unwrap_or_else(PoisonError::into_inner);
        if guard.ended {
            return;
        }
        drop(guard);
        let answer = resolve();
        let mut state = shared.lock();
        state.wanted = false;
        state.answer = Some(answer);
        if state.ended {
            return;
        }
        drop(state);
        wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn a_numeric_address_has_one_answer_a_request_at_once() {
        let address: Address = "IP:127.0.0.1:9001".parse().unwrap();
        let mut resolver =
            Resolver::new(&address, || panic!("a numeric address needs no thread")).unwrap();
        assert!(resolver.take().is_none());
        for _ in 0..2 {
            resolver.request();
            assert_eq!(resolver.take().unwrap(), address.resolve());
            assert!(resolver.take().is_none());
        }
    }

    #[test]
    fn a_name_is_resolved_on_another_thread_which_wakes_the_loop() {
        let address: Address = "IPv4:localhost:9001".parse().unwrap();
        let (sender, woken) = mpsc::channel();
        let mut resolver = Resolver::new(&address, move || sender.send(()).unwrap()).unwrap();
        for _ in 0..3 {
            resolver.request();
            woken.recv().unwrap();
            assert_eq!(resolver.take().unwrap(), address.resolve());
            assert!(resolver.take().is_none());
        }
    }

    #[test]
    fn an_answer_that_was_not_taken_does_not_answer_the_next_request() {
        let shared = Arc::new(Shared::default());
        let mut resolver = Resolver(Kind::Asked(Arc::clone(&shared)));
        resolver.request();
        shared.lock().answer = Some(Ok(Targets::new()));
        resolver.request();
        assert!(resolver.take().is_none(), "the host may be elsewhere by now");
    }

    #[test]
    fn dropping_the_resolver_ends_its_thread() {
        let address: Address = "IPv4:localhost:9001".parse().unwrap();
        let (sender, gone) = mpsc::channel::<()>();
        let resolver = Resolver::new(&address, move || sender.send(()).unwrap()).unwrap();
        drop(resolver);
        assert!(gone.recv().is_err(), "the thread has dropped the waker");
    }

    #[test]
    fn a_request_during_a_resolution_gets_its_answer() {
        let shared = Shared::default();
        let (go, gate) = mpsc::channel::<()>();
        let (sender, woken) = mpsc::channel();
        thread::scope(|scope| {
            let theirs = &shared;
            scope.spawn(move || {
                let resolve = || {
                    gate.recv().unwrap();
                    Ok(Targets::new())
                };
                work(theirs, resolve, || sender.send(()).unwrap());
            });
            shared.lock().wanted = true;
            shared.changed.notify_one();
            shared.lock().wanted = true;
            go.send(()).unwrap();
            woken.recv().unwrap();
            let mut state = shared.lock();
            assert!(state.answer.is_some() && !state.wanted);
            state.ended = true;
            shared.changed.notify_one();
        });
    }
}
