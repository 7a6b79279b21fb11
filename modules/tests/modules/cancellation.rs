//! A call whose future is dropped ends at once, whatever the guest is doing.

use std::time::{Duration, Instant};

use crate::rig::{Rig, block_on, guest, load_wat};
use crate::script::import;

/// Lets `text` run for 100 ms, drops it, and makes another call. How long it went on after its time was up.
fn overrun(text: &str) -> Duration {
    let rig = Rig::new();
    let program = load_wat(text);
    let wc = guest("wc");
    block_on(async {
        let begun = Instant::now();
        let ended = tokio::time::timeout(Duration::from_millis(100), rig.start(&program, Vec::new())).await;
        let overrun = begun.elapsed() - Duration::from_millis(100);
        assert!(ended.is_err(), "it ended by itself");
        let outcome = rig.start(&wc, vec![rig.blob(b"next\n")]).await.unwrap();
        assert_eq!(rig.content(&rig.commit(outcome).result), b"1 1 5\n");
        overrun
    })
}

#[test]
fn an_endless_loop() {
    let overrun = overrun(r#"(module (memory (export "memory") 1) (func (export "_start") (loop $l (br $l))))"#);
    assert!(overrun < Duration::from_millis(200), "{overrun:?}");
}

#[test]
fn endless_mutual_calls() {
    let overrun = overrun(
        r#"(module (memory (export "memory") 1)
        (func $a (param i32) (if (local.get 0) (then (return_call $b (local.get 0)))))
        (func $b (param i32) (return_call $a (local.get 0)))
        (func (export "_start") (call $a (i32.const 1))))"#,
    );
    assert!(overrun < Duration::from_millis(200), "{overrun:?}");
}

/// Between two points at which fuel let a guest yield lay a million host calls, or minutes.
#[test]
fn an_endless_loop_of_host_calls() {
    let overrun = overrun(&format!(
        r#"(module {} (memory (export "memory") 32)
        (func (export "_start") (loop $l (drop (call $random_get (i32.const 0) (i32.const 1000000))) (br $l))))"#,
        import("random_get")
    ));
    assert!(overrun < Duration::from_millis(200), "{overrun:?}");
}

#[test]
fn an_endless_loop_of_filling_memory() {
    let overrun = overrun(
        r#"(module (memory (export "memory") 1024)
        (func (export "_start") (loop $l (memory.fill (i32.const 0) (i32.const 1) (i32.const 0x3ffffff)) (br $l))))"#,
    );
    assert!(overrun < Duration::from_millis(200), "{overrun:?}");
}

#[test]
fn calls_share_one_thread() {
    let rig = Rig::new();
    let endless = load_wat(r#"(module (memory (export "memory") 2) (func (export "_start") (loop $l (br $l))))"#);
    let wc = guest("wc");
    block_on(async {
        let endless = tokio::spawn(rig.start(&endless, Vec::new()));
        tokio::task::yield_now().await;
        let outcome = rig.start(&wc, vec![rig.blob(b"a b\n")]).await.unwrap();
        assert_eq!(rig.content(&rig.commit(outcome).result), b"1 2 4\n");
        assert!(!endless.is_finished());
        endless.abort();
        assert!(endless.await.is_err_and(|error| error.is_cancelled()));
    });
}
