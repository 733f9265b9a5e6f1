// The tutorial's client in Node, from the tutorial's contract loaded as it runs; prints the tutorial's lines.
'use strict';

const path = require('node:path');
const { parseArgs } = require('node:util');
const grpc = require('@grpc/grpc-js');
const protoLoader = require('@grpc/proto-loader');

const { values: options } = parseArgs({
  options: {
    port: { type: 'string', default: '50005' }, // the server's port
    id: { type: 'string', default: '1' }, // what is asked for
    limit: { type: 'string', default: '0' }, // cancel after so many responses; 0: read to the end
  },
});

const contract = protoLoader.loadSync(path.join(__dirname, '..', 'tutorial.proto'));
const { StreamService } = grpc.loadPackageDefinition(contract).protobuf;

const client = new StreamService(`127.0.0.1:${options.port}`, grpc.credentials.createInsecure());
const stream = client.fetchResponse({ id: Number(options.id) });
let count = 0;
let cancelled = false;

stream.on('data', (response) => {
  if (cancelled) return;
  console.log(`Resp received: ${response.result}`);
  count += 1;
  if (count === Number(options.limit)) {
    cancelled = true;
    stream.cancel();
  }
});
stream.on('error', (error) => {
  if (cancelled) return;
  console.error(`cannot receive ${error.message}`);
  process.exit(1);
});
stream.on('end', () => {
  if (!cancelled) console.log('finished');
  client.close();
});
