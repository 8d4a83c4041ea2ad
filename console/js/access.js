// What the caller may do.

import { read } from "./api.js";

/** @type {{role: string, keyPrefix?: string, expiresAt?: string, spiritIds: string[]}} */
let access = { role: "", spiritIds: [] };

export async function loadAccess() {
  const reply = await read("AccessService/GetAccess", {});
  access = { role: reply.role, keyPrefix: reply.keyPrefix, expiresAt: reply.expiresAt, spiritIds: reply.spiritIds ?? [] };
  return access;
}

export const currentAccess = () => access;
/** Whether the caller may edit, delete and restore events. */
export const mayWrite = () => access.role === "ACCESS_ROLE_WRITER" || access.role === "ACCESS_ROLE_ADMIN";
export const roleName = () => access.role.replace("ACCESS_ROLE_", "").toLowerCase();
