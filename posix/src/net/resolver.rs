//! Finding hosts without stalling the loop.
//!
//! The system's resolver may wait for seconds. An address that needs it gets a thread of its own,
//! which resolves on request and then wakes the loop; every other address is answered at once from
//! what was found at start.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use crate::net::address::{Address, ResolveError, Targets};

/// What a resolution gives.
pub type Answer = Result<Targets, ResolveError>;

/// Finds the targets of one address, again and again, each time on [`request`](Self::request).
///
/// Its thread, where it has one, ends after it is dropped, as soon as the system's resolver lets it.
#[derive(Debug)]
pub struct Resolver(Kind);

impl Resolver {
    /// Starts to serve `address`; `wake` is called on another thread whenever an answer has come.
    ///
    /// May start a thread, which can fail: to be called after detaching, and before the loop.
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

    /// Asks for an answer. Asking again before it came changes nothing; an old one not yet taken is
    /// forgotten.
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

    /// The answer to the last request, once; `None` while there is none.
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
        // No code that can panic runs under the lock, so poison has nothing to tell.
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
    fn a_numeric_address_is_answered_at_once_and_once_a_request() {
        let address: Address = "IP:127.0.0.1:9001".parse().unwrap();
        let mut resolver = Resolver::new(&address, || panic!("nobody to wake")).unwrap();
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
    fn an_answer_that_nobody_took_does_not_answer_the_next_request() {
        let shared = Arc::new(Shared::default());
        let mut resolver = Resolver(Kind::Asked(Arc::clone(&shared)));
        resolver.request();
        shared.lock().answer = Some(Ok(Targets::new()));
        resolver.request();
        assert!(resolver.take().is_none(), "the host may be elsewhere by now");
    }

    #[test]
    fn the_thread_ends_with_its_resolver() {
        let address: Address = "IPv4:localhost:9001".parse().unwrap();
        let (sender, gone) = mpsc::channel::<()>();
        let resolver = Resolver::new(&address, move || sender.send(()).unwrap()).unwrap();
        drop(resolver);
        assert!(gone.recv().is_err(), "the waker went with the thread");
    }

    #[test]
    fn a_request_during_a_resolution_is_served_by_it() {
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
