// PURE. Notices a header block that does not come to its end: until then nothing else can come on the connection.

export class UnfinishedHead {
  #head = -1;
  #sinceMs = 0;

  /**
   * Call it about twice a second.
   *
   * @param head `Http2Connection.unfinishedHead`.
   * @returns whether the same head has been unfinished for `withinMs`.
   */
  isTooSlow(head: number, nowMs: number, withinMs: number): boolean {
    if (head < 0 || head !== this.#head) {
      this.#head = head;
      this.#sinceMs = nowMs;
      return false;
    }
    return nowMs - this.#sinceMs >= withinMs;
  }
}
