;; Gives standard input back with its letters a to z in upper case.
;;
;; Standard input is the first blob argument, file descriptor 0. Another exit status than 0 fails the call, and nothing is
;; remembered of it; the status is the errno of the read or write that failed.
(module
  (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))

  ;; At 0 the start and length of what is read or written next, at 8 how much it was, from 1024 on the block itself.
  (memory (export "memory") 2)

  (func (export "_start") (local $length i32)
    (loop $next_block
      (i32.store (i32.const 0) (i32.const 1024))
      (i32.store (i32.const 4) (i32.const 65536))
      (call $check (call $fd_read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
      (local.set $length (i32.load (i32.const 8)))
      (if (local.get $length) (then
        (call $upper (i32.const 1024) (i32.add (i32.const 1024) (local.get $length)))
        (call $write (i32.const 1024) (local.get $length))
        (br $next_block)))))

  (func $upper (param $at i32) (param $end i32) (local $letter i32)
    (loop $next_byte
      (local.set $letter (i32.sub (i32.load8_u (local.get $at)) (i32.const 97)))
      (if (i32.lt_u (local.get $letter) (i32.const 26))
        (then (i32.store8 (local.get $at) (i32.add (local.get $letter) (i32.const 65)))))
      (local.set $at (i32.add (local.get $at) (i32.const 1)))
      (br_if $next_byte (i32.lt_u (local.get $at) (local.get $end)))))

  ;; A write may be short.
  (func $write (param $at i32) (param $length i32)
    (loop $rest
      (i32.store (i32.const 0) (local.get $at))
      (i32.store (i32.const 4) (local.get $length))
      (call $check (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
      (local.set $at (i32.add (local.get $at) (i32.load (i32.const 8))))
      (local.set $length (i32.sub (local.get $length) (i32.load (i32.const 8))))
      (br_if $rest (local.get $length))))

  (func $check (param $errno i32)
    (if (local.get $errno) (then (call $proc_exit (local.get $errno))))))
