// Server-sent events, as https://html.spec.whatwg.org/multipage/server-sent-events.html has them,
// from pieces that may be cut anywhere.

/** No event of a chat is longer; a server that sends more is broken. */
const MAX_CHARS = 64 << 20;

/** Collects pieces of a stream into the data of events. */
export class EventReader {
  #rest = "";
  #data = [];
  #length = 0;

  /** The data of the events that this piece completes. */
  push(piece) {
    const events = [];
    // A carriage return at the end may be half of a line's end.
    const text = this.#rest + piece;
    const whole = text.endsWith("\r") ? text.slice(0, -1) : text;
    const lines = whole.split(/\r\n|\n|\r/);
    this.#rest = lines.pop() + text.slice(whole.length);
    for (const line of lines) {
      if (line === "") {
        if (this.#data.length) events.push(this.#data.join("\n"));
        this.#data = [];
        this.#length = 0;
      } else if (line.startsWith("data:")) {
        this.#take(line.slice(line[5] === " " ? 6 : 5));
      }
    }
    if (this.#rest.length > MAX_CHARS) throw new Error("the server sent an endless line");
    return events;
  }

  #take(data) {
    this.#length += data.length;
    if (this.#length > MAX_CHARS) throw new Error("the server sent an endless event");
    this.#data.push(data);
  }
}
