import { expect, test } from "vitest";
import { toCsv } from "./csv";

test("CSV quotes and disarms formulas", () => expect(toCsv([["a,b", 'say "x"', "=1+1", -1, null]])).toBe('"a,b","say ""x""",\'=1+1,-1,\r\n'));
