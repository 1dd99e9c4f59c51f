// BullMQ on Node: what is handled is removed, as soon as it is.
//
// Run with NODE_PATH, which only `require` heeds. Job, warm-up and result are those of subject.py.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const { Queue, Worker } = createRequire(import.meta.url)("bullmq");

const given = { concurrency: 100, name: "bench", body: 60, wait: 0, spin: 0, fail_every: 0, tasks: 1 };
const job = { ...given, ...JSON.parse(process.argv[2]) };
const { hostname: host, port } = new URL(job.url);
const connection = { host, port: Number(port), maxRetriesPerRequest: null };
const queue = new Queue(job.name, { connection });
const options = { removeOnComplete: true, attempts: 3, backoff: { type: "fixed", delay: 50 } };
const now = () => Number(process.hrtime.bigint()) / 1e9;
const sleep = (seconds) => new Promise((done) => setTimeout(done, seconds * 1000));

let count = 0;
let counted = 0; // before the clock was started
let begun = 0;
let ended = 0;

function tick(more = 1) {
  count += more;
  if (!begun && count >= Math.floor(job.messages * 0.1)) {
    begun = now();
    counted = count;
  } else if (count >= job.messages && !ended) {
    ended = now();
  }
}

function* bodies() {
  const pad = "x".repeat(Math.max(0, job.body - 60));
  for (let id = 0; id < job.messages; id++) yield { id, customer: "abcdefgh", amount: 12.5, pad };
}

function burn(seconds) {
  const used = () => process.cpuUsage().user / 1e6;
  for (const end = used() + seconds; used() < end; );
}

const rate = () => ({ rate: (count - counted) / (ended - begun), begun, ended, count });

async function publish() {
  const all = bodies();
  const publisher = async () => {
    for (const body of all) {
      await queue.add("handle", body, options);
      tick();
    }
  };
  await Promise.all(Array.from({ length: job.tasks }, publisher));
  return rate();
}

async function publishMany() {
  const most = Math.max(1, Math.min(500, Math.floor(2 ** 22 / job.body)));
  const all = [...bodies()].map((data) => ({ name: "handle", data, opts: options }));
  for (let at = 0; at < all.length; at += most) {
    const chunk = all.slice(at, at + most);
    await queue.addBulk(chunk);
    tick(chunk.length);
  }
  return rate();
}

async function drain() {
  const failed = new Set();
  const handled = new Uint8Array(job.messages);
  let again = 0;
  const handle = async ({ data: { id } }) => {
    if (job.wait) await sleep(job.wait);
    if (job.spin) burn(job.spin);
    if (job.fail_every && id % job.fail_every === 0 && !failed.has(id)) {
      failed.add(id);
      throw new Error("at first");
    }
    if (handled[id]) {
      again++;
      return;
    }
    handled[id] = 1;
    tick();
  };
  const worker = new Worker(job.name, handle, { connection, concurrency: job.concurrency });
  worker.on("error", (error) => console.error(error));
  while (!ended) await sleep(0.02);
  const patience = now() + 20;
  for (;;) {
    const counts = await queue.getJobCounts("wait", "active", "delayed", "failed");
    const left = Object.values(counts).reduce((sum, one) => sum + one, 0);
    if (!left) break;
    if (now() > patience) throw new Error(`all was handled, and the queue still has ${left} messages`);
    await sleep(0.02);
  }
  await worker.close();
  return { ...rate(), again, failed: failed.size };
}

const ways = { fill: publishMany, drain, publish, publish_many: publishMany };
if (!(job.do in ways)) {
  console.error(`there is no way to do '${job.do}' with it`);
  process.exit(1);
}
const result = await ways[job.do]();
await queue.close();
const peak = Number(/VmHWM:\s+(\d+)/.exec(readFileSync("/proc/self/status", "utf8"))[1]) * 1024;
const { user, system } = process.cpuUsage();
console.log(JSON.stringify({ ...result, rss: peak, cpu: (user + system) / 1e6 }));
process.exit(0);
