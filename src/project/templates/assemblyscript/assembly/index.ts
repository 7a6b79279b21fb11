// Gives standard input back with its letters a to z in upper case.
//
// Standard input is the first blob argument. What goes wrong (an exception, or `process.exit` with another status than 0) fails
// the call, and nothing is remembered of it.

const block = new ArrayBuffer(65536);
const bytes = Uint8Array.wrap(block);

for (let read = process.stdin.read(block); read > 0; read = process.stdin.read(block)) {
  for (let i = 0; i < read; i++) {
    const byte = bytes[i];
    if (byte >= 0x61 && byte <= 0x7a) bytes[i] = byte - 0x20;
  }
  process.stdout.write(block.slice(0, read));
}
