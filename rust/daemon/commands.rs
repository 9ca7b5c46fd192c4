// SPDX-License-Identifier: GPL-2.0

//! What each command that the daemon writes does.
//!
//! A command that fails changes nothing, and a rate-limited message names the value and the rule.

use super::session::{Session, Setup};
use crate::cache::bind::Plan;
use crate::cache::Cache;
use crate::protocol::command::{split, BindMode, Command, CommandError, CopenReply, Verb};
use crate::protocol::command_error::{Quoted, UnknownBindMode};
use crate::protocol::errno;
use crate::protocol::message::Layout;
use crate::sys::errno::EOPNOTSUPP;
use crate::sys::log::warn_limited;
use crate::sys::{creds, module};
use kernel::prelude::*;
use kernel::str::{CStr, CString};
use kernel::sync::Arc;

impl Session {
    /// Runs the command in `line` (`cachefiles_daemon_write()`).
    pub(super) fn command(&self, line: &[u8]) -> Result {
        let (verb, args) = split(line).map_err(explain)?;
        let mut setup = self.setup.lock();
        if self.requests.is_dead() {
            return Err(EIO);
        }
        if verb.is_ondemand() {
            return self.on_demand_command(verb, args);
        }
        match verb.parse(args).map_err(explain)? {
            Command::Bind(mode) => self.bind(&mut setup, mode),
            Command::Limit {
                resource,
                bound,
                percent,
            } => setup.limits.set(resource, bound, percent).map_err(|error| {
                warn_limited!("{}: {}", verb, error);
                EINVAL
            }),
            Command::Dir(dir) => set_once(&mut setup.dir, verb, dir),
            Command::Tag(tag) => set_once(&mut setup.tag, verb, tag),
            Command::SecCtx(context) => {
                if setup.secid.is_some() {
                    warn_limited!("secctx: a security context is set already");
                    return Err(EINVAL);
                }
                let text = c_string(context)?;
                setup.secid = Some(creds::security_id(&text).inspect_err(|error| {
                    warn_limited!(
                        "secctx: no security module knows {}: error {}",
                        Quoted(context),
                        error.to_errno()
                    )
                })?);
                Ok(())
            }
            Command::Debug(mask) => {
                module::set_debug_mask(mask);
                Ok(())
            }
            Command::Timeout(ms) => {
                self.requests.set_timeout(ms);
                Ok(())
            }
            Command::Cull(name) => self
                .ready_cache(verb)?
                .cull(name)
                .inspect_err(|error| tell_victim(verb, name, *error)),
            Command::InUse(name) => self
                .ready_cache(verb)?
                .check_in_use(name)
                .inspect_err(|error| tell_victim(verb, name, *error)),
            // Taken care of above.
            Command::Copen(_) | Command::Restore(_) | Command::Cinit(_) | Command::Cread(_) => {
                Err(EOPNOTSUPP)
            }
        }
    }

    /// Commands that exist in on-demand mode only, and of those only the chosen protocol's.
    fn on_demand_command(&self, verb: Verb, args: &[u8]) -> Result {
        let spoken = self.cache().and_then(|cache| cache.on_demand);
        let known = match verb {
            Verb::Copen => spoken == Some(Layout::Mainline),
            Verb::Cinit | Verb::Cread => spoken == Some(Layout::V5),
            _ => spoken.is_some(),
        };
        if !known {
            warn_limited!(
                "{}: the cache is not bound for on-demand mode with it",
                verb
            );
            return Err(EOPNOTSUPP);
        }
        match verb.parse(args).map_err(explain)? {
            Command::Restore(expected) => {
                if let Some(layout) = expected.filter(|layout| Some(*layout) != spoken) {
                    warn_limited!("restore: the cache is not bound with {}", layout);
                    return Err(EOPNOTSUPP);
                }
                self.requests.restore();
                Ok(())
            }
            Command::Copen(copen) => {
                let reply = copen
                    .reply
                    .map_err(|error| Error::from_errno(-error.errno()));
                self.requests
                    .answer_open(copen.id, reply)
                    .inspect_err(|_| match reply {
                        Ok(CopenReply::Size(_) | CopenReply::Error(_)) => {
                            warn_limited!("copen: no OPEN request {} waits for an answer", copen.id)
                        }
                        _ => warn_limited!(
                            "copen: {} is neither a size nor a negative error number",
                            Quoted(copen.reply_text)
                        ),
                    })
            }
            Command::Cinit(cinit) => {
                // Every OPEN wants the size. Without one the object is refused, and as there is no
                // other way to refuse one, the command succeeds.
                let size = cinit.size.filter(|size| *size > 0);
                let reply = size.map_or(CopenReply::Error(errno::EINVAL), CopenReply::Size);
                let answered = self.requests.answer_open(cinit.id, Ok(reply));
                match (answered, size) {
                    (Err(_), _) => {
                        warn_limited!("cinit: no OPEN request {} waits for an answer", cinit.id)
                    }
                    (Ok(()), None) => {
                        warn_limited!("cinit: OPEN request {} is refused: no size", cinit.id)
                    }
                    (Ok(()), Some(_)) => {}
                }
                answered
            }
            Command::Cread(cread) => self.requests.answer_read(None, cread.id).inspect_err(|_| {
                warn_limited!("cread: no READ request {} waits for an answer", cread.id)
            }),
            _ => Err(EOPNOTSUPP),
        }
    }

    fn ready_cache(&self, verb: Verb) -> Result<Arc<Cache>> {
        self.cache().ok_or_else(|| {
            warn_limited!("{}: the cache is not bound yet", verb);
            EIO
        })
    }

    fn bind(&self, setup: &mut Setup, mode: BindMode<'_>) -> Result {
        let Some(dir) = &setup.dir else {
            warn_limited!("bind: no cache directory was given");
            return Err(EINVAL);
        };
        if self.cache().is_some() {
            warn_limited!("bind: the cache is bound already");
            return Err(EBUSY);
        }
        let on_demand = match mode {
            BindMode::Plain => None,
            BindMode::OnDemand(Some(layout)) => Some(layout),
            BindMode::OnDemand(None) if module::protocol_index() == 1 => Some(Layout::V5),
            BindMode::OnDemand(None) => Some(Layout::Mainline),
            BindMode::Unknown(args) => {
                warn_limited!("bind: {}", UnknownBindMode(args));
                return Err(EINVAL);
            }
        };
        // From here on the tag is set, as if it had been given.
        let tag = match setup.tag.take() {
            Some(tag) => tag,
            None => c_string(b"CacheFiles")?,
        };
        let tag = &*setup.tag.insert(tag);
        let plan = Plan {
            dir,
            tag,
            secid: setup.secid,
            limits: &setup.limits,
            on_demand,
            requests: &self.requests,
        };
        self.set_bound(plan.bind()?);
        // A request may have come before the daemon could see it.
        self.requests.pollers.wake();
        Ok(())
    }
}

/// Stores an argument that may be given once.
fn set_once(place: &mut Option<CString>, verb: Verb, value: &[u8]) -> Result {
    if place.is_some() {
        warn_limited!(
            "{}: it is set already, and {} comes too late",
            verb,
            Quoted(value)
        );
        return Err(EEXIST);
    }
    *place = Some(c_string(value)?);
    Ok(())
}

fn c_string(value: &[u8]) -> Result<CString> {
    let mut bytes = KVec::with_capacity(value.len() + 1, GFP_KERNEL)?;
    bytes.extend_from_slice(value, GFP_KERNEL)?;
    bytes.push(0, GFP_KERNEL)?;
    let text = CStr::from_bytes_with_nul(&bytes).map_err(|_| EINVAL)?;
    Ok(CString::try_from(text)?)
}

/// Says why a file is not culled, unless it is just in use, which is an answer.
fn tell_victim(verb: Verb, name: &[u8], error: Error) {
    if error != EBUSY {
        warn_limited!(
            "{}: {} in the current directory: error {}",
            verb,
            Quoted(name),
            error.to_errno()
        );
    }
}

/// Puts an error of the grammar into the log, and turns it into what the writer is told.
fn explain(error: CommandError<'_>) -> Error {
    warn_limited!("{}", error);
    Error::from_errno(-error.errno())
}
