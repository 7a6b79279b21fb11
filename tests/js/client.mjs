// A client of gridfs on js-libp2p, written from p2p/PROTOCOL.md. Its one argument is a JSON object: the address of a node to
// begin with, the id of a peer to be found, a key that this peer provides, and the parms of a call for it to answer, with their
// promise; bytes in hex. It prints what it learnt as JSON.

import './polyfill.mjs'
import { createPublicKey, verify } from 'node:crypto'
import { noise } from '@chainsafe/libp2p-noise'
import { yamux } from '@chainsafe/libp2p-yamux'
import * as cbor from '@ipld/dag-cbor'
import { identify } from '@libp2p/identify'
import { kadDHT, passthroughMapper } from '@libp2p/kad-dht'
import { peerIdFromString } from '@libp2p/peer-id'
import { ping } from '@libp2p/ping'
import { tcp } from '@libp2p/tcp'
import { byteStream } from '@libp2p/utils'
import { webSockets } from '@libp2p/websockets'
import { multiaddr } from '@multiformats/multiaddr'
import { blake3 } from '@noble/hashes/blake3.js'
import { createLibp2p } from 'libp2p'
import { CID } from 'multiformats/cid'

const CALL = 1
const RANGE = 6
const REFUSED = 64
const CALLED = 65
const RANGED = 72
const HEAD_BYTES = 8

const bytes = (hex) => Uint8Array.from(Buffer.from(hex, 'hex'))

/** A frame without a body: length, version, kind, and the header. */
function frame (kind, header) {
  const encoded = cbor.encode(header)
  const head = Buffer.alloc(HEAD_BYTES)
  head.writeUInt32LE(encoded.length, 0)
  head.set([1, kind], 4)
  return Buffer.concat([head, encoded])
}

/** Sends a request on a stream of its own; the header of the answer, and the body that follows it. */
async function ask (node, peer, kind, header, answerKind, bodyBytes) {
  const stream = byteStream(await node.dialProtocol(peer, '/gridfs/1'))
  const read = async (length) => Buffer.from((await stream.read({ bytes: length })).subarray())
  await stream.write(frame(kind, header))
  const head = await read(HEAD_BYTES)
  const answer = cbor.decode(await read(head.readUInt32LE(0)))
  if (head[5] !== answerKind) {
    throw new Error(`refused: ${head[5] === REFUSED ? answer.words : `a frame of kind ${head[5]}`}`)
  }
  const length = bodyBytes(answer)
  return { answer, body: length > 0 ? await read(length) : Buffer.alloc(0) }
}

/** Who signed a claim: Ed25519 over its purpose and the receipt with an empty signature. */
function signer (claim) {
  const after = (mark) => claim.indexOf(Buffer.from(mark, 'hex')) + mark.length / 2
  // Byte strings of 64 and of 32 bytes, behind their names "signature" and "issuer".
  const at = after('697369676e61747572655840')
  const from = after('66697373756572' + '5820')
  const signature = claim.subarray(at, at + 64)
  const key = claim.subarray(from, from + 32)
  const unsigned = Buffer.concat([claim.subarray(0, at - 2), Buffer.from([0x40]), claim.subarray(at + 64)])
  const signed = Buffer.concat([Buffer.from('gridfs receipt 2\0'), unsigned])
  const spki = Buffer.concat([Buffer.from('302a300506032b6570032100', 'hex'), key])
  if (!verify(null, signed, createPublicKey({ key: spki, format: 'der', type: 'spki' }), signature)) {
    throw new Error('the claim is not signed by its issuer')
  }
  return key
}

const task = JSON.parse(process.argv[2])
const node = await createLibp2p({
  transports: [tcp(), webSockets()],
  connectionEncrypters: [noise()],
  streamMuxers: [yamux()],
  // It pings at any time, and a node answers one stream of pings of a peer at a time.
  connectionMonitor: { enabled: false },
  services: {
    identify: identify(),
    ping: ping(),
    kad: kadDHT({ protocol: '/gridfs/kad/1', clientMode: true, peerInfoMapper: passthroughMapper })
  }
})
const signal = AbortSignal.timeout(60_000)
const said = {}

const identified = new Promise((resolve) => {
  node.addEventListener('peer:identify', (event) => resolve(event.detail), { once: true })
})
const connection = await node.dial(multiaddr(task.address), { signal })
said.agent = (await identified).agentVersion
// Kademlia pings whom it takes into its table.
while (node.services.kad.routingTable.size === 0) {
  signal.throwIfAborted()
  await new Promise((resolve) => setTimeout(resolve, 20))
}
said.ping_ms = await node.services.ping.ping(connection.remotePeer, { signal })

const wanted = peerIdFromString(task.peer)
for await (const event of node.services.kad.findPeer(wanted, { signal })) {
  if (event.name === 'FINAL_PEER') {
    said.found = event.peer.id.toString()
  }
}
// Keys are bare digests, not multihashes.
const digest = bytes(task.key)
const key = CID.createV1(0x55, { code: 0x1e, size: digest.length, digest, bytes: digest })
const providers = new Set()
for await (const event of node.services.kad.findProviders(key, { signal })) {
  if (event.name === 'PROVIDER') {
    event.providers.forEach((provider) => providers.add(provider.id.toString()))
  }
}
said.providers = [...providers]

const promise = CID.decode(bytes(task.promise))
const request = { parms: bytes(task.parms), token: null, promise, deadline_ms: 5000 }
const called = await ask(node, wanted, CALL, request, CALLED, (answer) => answer.claim_bytes)
const key32 = signer(called.body)
said.claim_is_signed_by = Buffer.from(wanted.publicKey.raw).equals(key32) ? task.peer : 'somebody else'
const range = { cid: called.answer.result, length: 1 << 20, offset: 0 }
const ranged = await ask(node, wanted, RANGE, range, RANGED, (answer) => answer.bytes + answer.proof_bytes)
if (!Buffer.from(blake3(ranged.body)).equals(Buffer.from(called.answer.result.multihash.digest))) {
  throw new Error('the result is not what it is named by')
}
said.result = ranged.body.toString()
await node.stop()
console.log(JSON.stringify(said))
