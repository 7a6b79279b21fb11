//! Runs a later answer until it comes, the caller is interrupted, or the mount goes.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

use crate::signals::Watched;
use crate::tree::{Errno, Later};

/// How often a waiting caller's signals are looked at, and how long a quick answer has before the first look.
const LOOK_EVERY: Duration = Duration::from_millis(15);

/// The answer; `EINTR` when the thread `caller` (0: unknown, not watched) is interrupted first, `ECONNABORTED` when the
/// mount is given up. In both cases the future has been dropped when this returns.
pub(crate) async fn outcome<T>(later: Later<T>, caller: u32, mut closing: watch::Receiver<bool>) -> Result<T, Errno> {
    tokio::select! {
        biased;
        result = later => result,
        () = interruption(caller) => Err(Errno::EINTR),
        // An error means that the sender is gone, and with it the mount.
        _ = closing.wait_for(|closing| *closing) => Err(Errno::ECONNABORTED),
    }
}

/// Comes when `caller` is interrupted.
async fn interruption(caller: u32) {
    if caller == 0 {
        return std::future::pending().await;
    }
    sleep(LOOK_EVERY).await;
    let mut watched = Watched::new(caller);
    while !watched.interrupted() {
        sleep(LOOK_EVERY).await;
    }
}
