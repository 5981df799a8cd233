// The run's data: scripts of packed arrays, loaded when they are needed and once.

const waiting = new Map();
const loaded = new Map();

const ARRAYS = {
  float32: Float32Array, float64: Float64Array, uint8: Uint8Array, uint16: Uint16Array,
  uint32: Uint32Array, int32: Int32Array,
};

/** Called by each script of data/ with what it holds. */
function put(name, text) {
  const told = unpack(text);
  if (waiting.has(name)) waiting.get(name).found(told);
  else loaded.set(name, told);
}

/** What a script of data/ holds: {content, arrays}. */
function load(name) {
  if (!loaded.has(name)) {
    loaded.set(name, new Promise((found, failed) => {
      waiting.set(name, { found, failed });
      const script = h("script", {
        src: `data/${name}.js`,
        error: () => failed(new Error(`data/${name}.js cannot be read: keep the folder of the report together`)),
      });
      document.head.append(script);
    }).finally(() => waiting.delete(name)));
  }
  return loaded.get(name);
}

async function unpack(text) {
  const packed = Uint8Array.fromBase64 ? Uint8Array.fromBase64(text) : Uint8Array.from(atob(text), (each) => each.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const buffer = await new Response(stream).arrayBuffer();
  const length = new DataView(buffer).getUint32(0, true);
  const content = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  const start = Math.ceil((4 + length) / 8) * 8;
  const arrays = content.arrays.map((about) => new ARRAYS[about.type](buffer, start + about.at, about.length));
  return { content, arrays };
}

/** The run: its catalogue, columns by name, and what a neuron is called. */
const run = {
  columns: new Map(),

  async start() {
    const { columns, ...told } = (await load("front")).content;
    Object.assign(this, told);
    for (const about of columns) this.columns.set(about.name, about);
    this.labels = new Map(this.blocks.map((block) => [block.model, block.label]));
  },

  /** A column with its values, which are loaded if they are not there. */
  async column(name) {
    const column = this.columns.get(name);
    if (column && !column.values) column.values = (await load(column.file)).arrays[column.at];
    return column;
  },

  async all(names) {
    return Promise.all(names.filter((name) => this.columns.has(name)).map((name) => this.column(name)));
  },

  block(place) {
    return this.blocks.findLast((block) => block.start <= place);
  },

  /** Model, layer and neuron of a place in the list. */
  where(place) {
    const block = this.block(place);
    const within = place - block.start;
    return { block, layer: Math.floor(within / block.width), neuron: within % block.width };
  },

  /** `model:layer.neuron`. */
  id(place) {
    const { block, layer, neuron } = this.where(place);
    return `${block.label}:${layer}.${neuron}`;
  },

  /** Without the model, where that is the one the page is of. */
  short(place) {
    const { block, layer, neuron } = this.where(place);
    return this.reference && block.label === this.reference.label ? `${layer}.${neuron}` : this.id(place);
  },

  /** The place of a neuron that is named as above, as 8.859 or as L8/N859; -1 where there is none. */
  find(name) {
    const parts = /^\s*(?:(.+):)?\s*L?(\d+)\s*[./]\s*N?(\d+)\s*$/i.exec(name);
    if (!parts) return -1;
    const [, label, layer, neuron] = parts;
    const block = label ? this.blocks.find((each) => each.label === label || each.model === label) : this.blocks.find((each) => each === this.home());
    return block && layer < block.layers && neuron < block.width ? this.place(block, Number(layer), Number(neuron)) : -1;
  },

  place(block, layer, neuron) {
    return block.start + layer * block.width + neuron;
  },

  /** The model that a neuron without a model's name is of. */
  home() {
    const page = this.reference || this.pages[0];
    return (page && this.blocks.find((block) => block.label === page.label)) || this.blocks[0];
  },

  get reference() {
    return this.pages[this.chosen || 0];
  },

  address(place) {
    return `#/neuron/${encodeURIComponent(this.id(place))}`;
  },

  /** Rows of a neuron by table, or null where its detail was left out. */
  async detail(place) {
    if (this.strongest.neurons[place]) return this.rows(this.strongest, place);
    const levels = (await load("levels")).arrays[0];
    if (!levels[place]) return null;
    return this.rows((await load(`neurons-${Math.floor(place / this.per_file)}`)).content, place);
  },

  /** The same from a file: of tables with one row for a neuron that row, of others a list. */
  rows({ columns, neurons }, place) {
    const [level, tables] = neurons[place];
    return Object.fromEntries(Object.entries(tables).map(([name, rows]) => {
      const told = rows.map((row) => Object.fromEntries(columns[level][name].map((column, at) => [column, row[at]])));
      return [name, this.one_each.includes(name) ? told[0] : told];
    }));
  },

  /** What the ids of examples say. */
  async vocabulary() {
    if (!this.tables.includes("vocabulary") || this.texts) return;
    this.texts = (await load("vocabulary")).content.texts;
  },

  /** What is said of neurons in words, by their places. */
  async descriptionsOf() {
    return this.tables.includes("descriptions") ? (await load("descriptions")).content.texts : null;
  },

  /** Why a column has no value for a neuron. */
  reason(name, place) {
    const column = this.columns.get(name);
    if (!column) return "";
    const lacks = this.not_measured[this.block(place).model] || {};
    if (lacks[name]) return lacks[name];
    for (const need of column.null.match(/needs: (.*)$/)?.[1].split(", ") || []) if (lacks[need]) return lacks[need];
    return column.null || (column.table === "neurons" || column.table === "pairs" ? "its model is no reference" : "");
  },
};

function link(place, attributes) {
  return h("a", { href: run.address(place), ...attributes }, run.id(place));
}

globalThis.universalRay = { put };
