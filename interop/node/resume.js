// Reads a run to its end in Node, over as many streams as it takes; prints `sequence result`.
'use strict';

const { randomUUID } = require('node:crypto');
const path = require('node:path');
const { setTimeout: sleep } = require('node:timers/promises');
const { parseArgs } = require('node:util');
const grpc = require('@grpc/grpc-js');
const protoLoader = require('@grpc/proto-loader');

// A connection that a network has forgotten is noticed, and a server that was away is tried again soon.
const OPTIONS = { 'grpc.keepalive_time_ms': 10_000, 'grpc.keepalive_timeout_ms': 5_000, 'grpc.max_reconnect_backoff_ms': 1_000 };

// [resume]
// Every response of a run once and in order, whatever happens to client, network and server.
async function* fetch(client, request, patience = 300_000) {
  request.idempotency_key ||= randomUUID(); // finds the run if its headers got lost
  let [run, after, pause, progress] = ['', 0, 100, Date.now()];
  for (;;) {
    const call = client.fetchResponse(run ? { run_id: run, after } : request);
    call.on('metadata', (metadata) => {
      const [durability = 'none'] = metadata.get('outflow-durability');
      if (durability !== 'none') [run] = metadata.get('outflow-run-id');
    });
    try {
      for await (const response of call) {
        if (Number(response.sequence) === 0) continue; // a heartbeat
        [after, pause, progress] = [Number(response.sequence), 100, Date.now()];
        yield response;
      }
      return;
    } catch (error) {
      const told = (name) => (error.metadata?.get(name) ?? []).length > 0;
      const { CANCELLED, UNKNOWN, INTERNAL, RESOURCE_EXHAUSTED, UNAVAILABLE } = grpc.status;
      const cut = error.code === UNAVAILABLE;
      const broke = [CANCELLED, UNKNOWN, INTERNAL, RESOURCE_EXHAUSTED].includes(error.code) && !told('outflow-last-sequence');
      if (told('outflow-end') || !(cut || broke) || Date.now() - progress > patience) throw error;
      await sleep(pause * (0.5 + Math.random() / 2));
      pause = Math.min(2 * pause, 5_000);
    }
  }
}
// [/resume]

async function main() {
  const { values, positionals } = parseArgs({
    options: { port: { type: 'string', default: '50005' } }, // the server's port
    allowPositionals: true, // NAME=VALUE, for the source
  });
  const root = path.join(__dirname, '..', 'proto');
  const contract = protoLoader.loadSync('protobuf/stream_service.proto', { includeDirs: [root], keepCase: true, longs: String });
  const { StreamService } = grpc.loadPackageDefinition(contract).protobuf;
  const client = new StreamService(`127.0.0.1:${values.port}`, grpc.credentials.createInsecure(), OPTIONS);
  const parameters = Object.fromEntries(positionals.map((parameter) => parameter.split('=', 2)));
  for await (const response of fetch(client, { id: 1, parameters, linger: { seconds: 60 } })) {
    process.stdout.write(`${response.sequence} ${response.result}\n`);
  }
  client.close();
}

main().catch((error) => {
  console.error(`cannot receive ${error.message}`);
  process.exit(1);
});
