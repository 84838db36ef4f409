// SPDX-License-Identifier: Apache-2.0
// A page that is opened from the disk may not start a worker. The search, which is one, runs in a hidden frame there.
if (location.protocol === "file:") {
  window.Worker = window.IFrameWorker = class extends EventTarget {
    constructor(address) {
      super();
      this.waiting = [];
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      this.frame.title = "Search";
      this.frame.srcdoc = `<script src="${new URL(address, location.href)}"></script>`;
      this.frame.addEventListener("load", () => this.open());
      document.body.append(this.frame);
    }

    open() {
      const inside = this.frame.contentWindow;
      inside.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
      this.postMessage = (data) => inside.dispatchEvent(new MessageEvent("message", { data }));
      this.waiting.forEach((data) => this.postMessage(data));
    }

    postMessage(data) {
      this.waiting.push(data);
    }
  };
}
