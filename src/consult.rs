//! Consulting modules: who accepts a call is asked, or known from before; of these, one after the other handles it until one
//! answers.

use std::cmp::Reverse;
use std::pin::pin;
use std::time::Duration;

use crate::authority::Authority;
use crate::describe::Runner;
use crate::error::{Code, Error, Result};
use crate::kernel::Kernel;
use crate::module::{Call, Module, Reply};
use crate::promise::Source;
use crate::syscalls::{DOUBTFUL, Steps};
use crate::{cache, claims, runners};

impl Kernel {
    /// The answer of the best module that accepts a call. `clock` tells the time since 1970.
    ///
    /// A failure that is the call's own is final; after one that is its handler's, the next is tried. Either is a broken promise.
    pub(crate) async fn consult(&self, call: &Call, clock: impl Fn() -> Duration) -> Result<Reply> {
        let steps = Steps::of(&call.parms);
        let accepters = self.accepters(call, &steps, millis(clock()))?;
        if call.promise.source == Source::Race {
            let is_there = |module: &&dyn Module| [claims::ID, runners::ID].contains(&module.id());
            let (there, here): (Vec<_>, Vec<_>) = accepters.iter().copied().partition(is_there);
            if !there.is_empty() && !here.is_empty() {
                let here = self.first_of(call, &steps, &here, &clock);
                return race(here, self.first_of(call, &steps, &there, &clock)).await;
            }
        }
        self.first_of(call, &steps, &accepters, &clock).await
    }

    /// The answer of the first of these modules that has one.
    async fn first_of(
        &self,
        call: &Call,
        steps: &Steps,
        accepters: &[&dyn Module],
        clock: &impl Fn() -> Duration,
    ) -> Result<Reply> {
        let mut failure: Option<Error> = None;
        for module in accepters {
            let started = clock();
            let result = module.handle(call).await;
            let ended = clock();
            match result {
                Ok(reply) => {
                    let latency_us = u64::try_from(ended.saturating_sub(started).as_micros()).unwrap_or(u64::MAX);
                    self.syscalls.kept(steps, module.id(), latency_us, millis(ended));
                    return Ok(reply);
                }
                // Given up is not broken.
                Err(error) if error.code == Code::Interrupted => return Err(error),
                Err(error) => {
                    self.syscalls.broken(steps, module.id(), &error, millis(ended));
                    if error.code.is_final() {
                        return Err(error);
                    }
                    failure = Some(match failure {
                        // That nobody else makes the call either is not all there is to say.
                        Some(before) if module.id() == runners::ID => {
                            Error::new(error.code, format!("{before}; {error}"))
                        }
                        _ => error,
                    });
                }
            }
        }
        let nobody =
            || Error::new(Code::Unavailable, format!("no module accepts {}", call.parms.path(call.module.required())));
        Err(failure.unwrap_or_else(nobody))
    }

    /// The modules that accept a call, in the order in which they are to be tried: who broke a promise lately after those who
    /// did not, then who accepted the longer prefix, then who has the better record, then in the order of the node.
    fn accepters(&self, call: &Call, steps: &Steps, now_ms: u64) -> Result<Vec<&dyn Module>> {
        let modules = self.consulted.iter().map(|module| &**module);
        let modules: Vec<&dyn Module> = modules.filter(|module| may_handle(call, module.id())).collect();
        let ids: Vec<&str> = modules.iter().map(|module| module.id()).collect();
        let answers = self.syscalls.answers(steps, &ids, now_ms);
        let losses = self.syscalls.losses(steps, &ids, now_ms);
        let mut accepters = Vec::new();
        for ((module, answer), loss) in modules.into_iter().zip(answers).zip(losses) {
            // Who accepts a call need not accept to compute it again.
            let (accepts, about) = match answer.filter(|_| !call.again) {
                Some(answer) => (answer.accepts, answer.about),
                None => {
                    let acceptance = module.accept(call)?;
                    self.syscalls.learn(steps, module.id(), acceptance, now_ms);
                    // An answer about this call alone is the most particular one.
                    (acceptance.accepts, acceptance.about.unwrap_or(usize::MAX))
                }
            };
            if accepts {
                accepters.push(((loss.max(DOUBTFUL), Reverse(about), loss), module));
            }
        }
        accepters.sort_by_key(|(rank, _)| *rank);
        Ok(accepters.into_iter().map(|(_, module)| module).collect())
    }
}

/// Whether a call may be put to a module, by the right that it is made by.
fn may_handle(call: &Call, id: &str) -> bool {
    let is_run_by_peers = id == runners::ID;
    match &call.caller.authority {
        Authority::Elsewhere(_) => id == cache::ID || is_run_by_peers && call.module.runner == Runner::Wasm,
        Authority::Owner => !is_run_by_peers || call.module.runner == Runner::Wasm,
        // Who was let in here, or asked this node, asks nobody else through it.
        Authority::Grant(_) | Authority::Nobody | Authority::Peer(..) => !is_run_by_peers,
    }
}

/// The first good answer of the two; if there is none, the failure here.
async fn race(here: impl Future<Output = Result<Reply>>, there: impl Future<Output = Result<Reply>>) -> Result<Reply> {
    let (mut here, mut there) = (pin!(here), pin!(there));
    tokio::select! {
        answer = &mut here => match answer {
            Err(error) if !error.code.is_final() => there.await.map_err(|_| error),
            answer => answer,
        },
        answer = &mut there => match answer {
            Ok(reply) => Ok(reply),
            Err(_) => here.await,
        },
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
