/* What the data files hand over, and how those of a class are loaded when it is opened. */

const fullgrad = (() => {
  const KEPT = 24; // classes in memory; the least recently opened one goes first
  const loaded = new Map(); // class → promise of {data, sprite, checked}
  const waiting = new Map(); // class → function that takes its data

  const script = (path) =>
    new Promise((resolve, reject) => {
      const element = document.createElement("script");
      element.src = path;
      element.onload = () => resolve(element.remove());
      element.onerror = () => reject(new Error(`${path} cannot be read`, element.remove()));
      document.head.append(element);
    });

  const image = (path) =>
    new Promise((resolve, reject) => {
      const element = new Image();
      element.onload = () => resolve(element);
      element.onerror = () => reject(new Error(`${path} cannot be read`));
      element.src = path;
    });

  const fetchClass = async (index) => {
    let data = null;
    waiting.set(index, (value) => (data = value));
    await script(`data/c${index}.js`);
    waiting.delete(index);
    if (data === null) throw new Error(`data/c${index}.js has no data of this class`);
    const [sprite, checked] = await Promise.all([
      data.sprite && image(`thumbs/c${index}.jpg`),
      data.checks?.sprite && image(`thumbs/c${index}-checked.jpg`),
    ]);
    return { data, sprite, checked };
  };

  return {
    results: null, // the content of data/index.js

    /** Takes the content of data/index.js. */
    index(value) {
      this.results = value;
    },

    /** Takes the content of data/c<index>.js. */
    class(index, value) {
      waiting.get(index)?.(value);
    },

    /** A promise of a class's data and of its sprites, of examples and of its check: image elements or null. */
    load(index) {
      const promise = loaded.get(index) ?? fetchClass(index);
      loaded.delete(index);
      loaded.set(index, promise);
      promise.catch(() => loaded.delete(index));
      if (loaded.size > KEPT) loaded.delete(loaded.keys().next().value);
      return promise;
    },

    /** Shows the view that the address names. */
    start() {
      startRouter();
    },
  };
})();
