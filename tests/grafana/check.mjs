// Whether dashboards are what Grafana's own types say: `node check.mjs MODULES WORK FILE.json...`.
//
// Called by tests/contract/test_dashboards_types.py. MODULES is a folder with `node_modules` of
// package.json, WORK an empty one below it. Each file becomes a module that gives its text to a
// constant of the type; tsc says on standard output what does not fit, and decides the status.
//
// Two things are let through, and no others:
// - A text where the type has an enumeration of texts: JSON has no enumerations. Only the words of
//   the enumeration pass.
// - `expr`, `step` and `titleFormat` of a mark. They are the Prometheus plugin's own, which reads
//   them beside the fields that all marks have; the schema knows the latter alone.

import { spawnSync } from "node:child_process";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";

const [modules, work, ...files] = process.argv.slice(2);
if (!files.length) {
  console.error("check.mjs: a folder with node_modules, a folder to write in, and dashboards.");
  process.exit(2);
}

const TYPES = `
import type { Dashboard } from "@grafana/schema";

type Plain<T> = 0 extends 1 & T ? T
  : T extends string ? \`\${T}\`
  : T extends readonly (infer One)[] ? Plain<One>[]
  : T extends object ? { [K in keyof T]: Plain<T[K]> }
  : T;
type Marks = NonNullable<NonNullable<Dashboard["annotations"]>["list"]>;
type PrometheusMark = Plain<Marks[number]> & { expr: string; step: string; titleFormat: string };

export type Board = Omit<Partial<Plain<Dashboard>>, "annotations"> & {
  annotations?: { list?: PrometheusMark[] };
};
`;

mkdirSync(work, { recursive: true });
writeFileSync(join(work, "board.ts"), TYPES);
const written = files.map((file) => {
  const path = join(work, `${basename(file, ".json")}.dashboard.ts`);
  const text = readFileSync(file, "utf8").trim();
  const head = 'import type { Board } from "./board.js";\n';
  writeFileSync(path, `${head}export const board: Board = ${text};\n`);
  return path;
});
const options = ["--noEmit", "--strict", "--skipLibCheck", "--pretty", "false"];
const target = ["--target", "es2022", "--module", "nodenext", "--moduleResolution", "nodenext"];
const tsc = join(modules, "node_modules", "typescript", "bin", "tsc");
const found = spawnSync(process.execPath, [tsc, ...options, ...target, ...written], {
  stdio: "inherit",
});
process.exit(found.status ?? 3);
