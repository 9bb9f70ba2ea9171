// Which users hold tokens with which roles now, as far as this replica minted them: who loses a role must not keep it until
// the last token has ended. PURE.
import { userIdOf } from "./person.ts";
import type { Person } from "./session-handle.ts";

interface Held {
  readonly person: Person;
  readonly roles: readonly string[];
  /** Unix milliseconds: the last token has ended by then. */
  readonly untilMs: number;
}

export interface RoleLoss {
  /** `idp|id`. */
  readonly user: string;
  readonly lost: readonly string[];
}

const MAX_USERS = 50_000;

export class HeldRoles {
  readonly #byUser = new Map<string, Held>();

  get size(): number {
    return this.#byUser.size;
  }

  /** A token with these roles is minted, and ends at `untilMs` (Unix milliseconds). */
  minted(person: Person, roles: readonly string[], untilMs: number): void {
    const user = userIdOf(person);
    // Behind all others, so that the first entries are the oldest.
    this.#byUser.delete(user);
    if (roles.length === 0) return;
    if (this.#byUser.size >= MAX_USERS) {
      const [oldest] = this.#byUser.keys();
      if (oldest !== undefined) this.#byUser.delete(oldest);
    }
    this.#byUser.set(user, { person, roles, untilMs });
  }

  /**
   * Who holds a role no more. Each loss is told once.
   *
   * @param rolesOf by the bindings that are in force now.
   */
  losses(rolesOf: (person: Person) => readonly string[], nowMs: number): readonly RoleLoss[] {
    const losses: RoleLoss[] = [];
    for (const [user, held] of this.#byUser) {
      if (held.untilMs <= nowMs) {
        this.#byUser.delete(user);
        continue;
      }
      const now = new Set(rolesOf(held.person));
      const lost = held.roles.filter((role) => !now.has(role));
      if (lost.length === 0) continue;
      losses.push({ user, lost });
      this.#byUser.delete(user);
    }
    return losses;
  }
}
