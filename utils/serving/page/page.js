"use strict";
// The image stays here; each change of image or threshold sends it to /predict, and the answer is drawn over it.

const get = (id) => document.getElementById(id);
const canvas = get("picture"), pen = canvas.getContext("2d");
let network = null;  // what /network says
let shown = null;    // {blob, name, bitmap}
let found = null;    // what /predict said last
let running = null, again = false;
let stream = null;   // of the camera

function complain(text) {
  get("message").textContent = text;
  get("message").hidden = !text;
}

async function ask(blob, name) {
  const form = new FormData();
  form.append("image", blob, name);
  const answer = await fetch(`predict?conf=${get("conf").value}&iou=${get("iou").value}`, { method: "POST", body: form });
  const said = await answer.json().catch(() => ({ detail: `the server answered ${answer.status}` }));
  if (!answer.ok) throw new Error(said.detail);
  return said;
}

// One request at a time; what changes meanwhile is asked for once, when it is back. Done when all is answered.
function update() {
  again = true;
  running = running || answerAll().finally(() => { running = null; });
  return running;
}

async function answerAll() {
  while (again && shown) {
    again = false;
    const asked = shown, start = performance.now();
    try {
      const said = await ask(asked.blob, asked.name);
      if (asked === shown) {
        found = said;
        report(performance.now() - start);
      }
    } catch (error) {
      if (asked === shown) {
        found = null;
        report(null, "no answer");
        complain(error instanceof TypeError ? "The server cannot be reached. Is it still running?" : error.message);
      }
    }
    draw();
  }
}

async function show(blob, name) {
  complain("");
  if (blob.size > network.megabytes * 1e6) { complain(`${name}: expected at most ${network.megabytes} MB`); return; }
  let bitmap;
  try { bitmap = await createImageBitmap(blob); } catch { complain(`${name}: not an image that this browser can show`); return; }
  if (shown) shown.bitmap.close();
  shown = { blob, name, bitmap };
  found = null;
  report(null, "looking ...");
  draw();
  await update();
}

function draw() {
  if (!shown) return;
  const { bitmap } = shown;
  canvas.hidden = false;
  get("hint").hidden = true;
  get("drop").classList.add("full");
  canvas.width = bitmap.width;
  canvas.height = bitmap.height;
  pen.drawImage(bitmap, 0, 0);
  if (!found) return;
  const unit = Math.max(bitmap.width, bitmap.height) / 900;  // so that lines and words look alike in all sizes
  pen.lineWidth = Math.max(1, 2.5 * unit);
  pen.font = `600 ${Math.max(9, Math.round(14 * unit))}px system-ui, sans-serif`;
  pen.textBaseline = "top";
  const line = Math.max(11, Math.round(18 * unit));
  for (const box of [...found.boxes].reverse()) {  // the best on top
    const colour = network.colours[box.class], words = `${box.name} ${box.score.toFixed(2)}`;
    pen.strokeStyle = pen.fillStyle = colour;
    pen.strokeRect(box.x1, box.y1, box.x2 - box.x1, box.y2 - box.y1);
    const width = pen.measureText(words).width + 6 * unit;
    const left = Math.max(0, Math.min(box.x1, bitmap.width - width)), top = Math.max(0, box.y1 - line);
    pen.fillRect(left, top, width, line);
    pen.fillStyle = dark(colour) ? "#fff" : "#000";
    pen.fillText(words, left + 3 * unit, top + 2 * unit);
  }
}

function dark(colour) {
  const [red, green, blue] = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
  return 0.299 * red + 0.587 * green + 0.114 * blue < 140;
}

function row(...cells) {
  const line = document.createElement("tr");
  for (const cell of cells) line.insertCell().textContent = cell;
  return line;
}

function report(total, nothing = "nothing") {
  const counts = new Map();
  for (const box of found ? found.boxes : []) counts.set(box.class, (counts.get(box.class) || 0) + 1);
  const items = [...counts].sort((one, two) => two[1] - one[1]).map(([label, number]) => {
    const item = document.createElement("li"), chip = document.createElement("i"), sum = document.createElement("b");
    chip.style.background = network.colours[label];
    sum.textContent = number;
    item.append(chip, network.names[label], sum);
    return item;
  });
  if (!items.length) {
    const item = document.createElement("li");
    item.className = "quiet";
    item.textContent = nothing;
    items.push(item);
  }
  get("counts").replaceChildren(...items);
  const words = { read: "decode the file", preprocess: "resize", inference: "network", nms: "NMS" };
  const times = found ? Object.entries(found.milliseconds).map(([step, value]) => row(words[step] || step, value.toFixed(1))) : [];
  if (found) times.push(row("all, as seen from here", total.toFixed(1)));
  get("times").tBodies[0].replaceChildren(...times);
  const rows = found ? found.boxes.map((box) => row(box.name, box.score.toFixed(3), ...[box.x1, box.y1, box.x2, box.y2].map((side) => side.toFixed(0)))) : [];
  get("boxes").replaceChildren(...rows);
  get("download").disabled = !found;
}

function download() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([JSON.stringify(found, null, 2)], { type: "application/json" }));
  link.download = `${shown.name.replace(/\.[^.]*$/, "")}.json`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

function stopCamera() {
  if (stream) stream.getTracks().forEach((track) => track.stop());
  stream = null;
  get("camera").setAttribute("aria-pressed", "false");
  get("camera").textContent = "Use camera";
}

async function useCamera() {
  complain("");
  if (stream) { stopCamera(); return; }
  if (!navigator.mediaDevices) { complain("The browser gives a camera to pages at https or localhost alone."); return; }
  try { stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } }); }
  catch (error) { complain(`No camera: ${error.message}`); return; }
  get("camera").setAttribute("aria-pressed", "true");
  get("camera").textContent = "Stop camera";
  const video = get("video"), mine = stream;
  video.srcObject = stream;
  await video.play();
  while (stream === mine) {  // each frame when the one before is done
    const { bitmap, blob } = await still(video);
    if (stream !== mine) break;
    if (shown) shown.bitmap.close();
    shown = { blob, name: "camera.jpg", bitmap };
    await update();
    if (!get("message").hidden) stopCamera();  // what is wrong stays to be read
  }
}

async function still(video) {
  const frame = new OffscreenCanvas(video.videoWidth, video.videoHeight);
  frame.getContext("2d").drawImage(video, 0, 0);
  return { bitmap: await createImageBitmap(frame), blob: await frame.convertToBlob({ type: "image/jpeg", quality: 0.9 }) };
}

async function take(files) {
  const file = [...files].find((each) => each.type.startsWith("image/"));
  if (!file) { complain("Expected an image file."); return; }
  stopCamera();
  await show(file, file.name || "pasted.png");
}

async function start() {
  network = await (await fetch("network")).json();
  const { names, size } = network;
  get("network").textContent = network.network;
  const classes = names.length <= 8 ? names.join(", ") : `${names.length} classes, such as ${names.slice(0, 5).join(", ")}`;
  get("about").textContent = `finds ${classes} · ${size[0]} × ${size[1]} pixels · ${network.runtime}, ${network.precision}`;
  document.title = network.network;
  if (network.nms) { get("conf").min = network.nms[0]; get("iou").disabled = true; network.iou = network.nms[1]; }
  for (const key of ["conf", "iou"]) {
    const slider = get(key), tell = () => { get(`${key}-value`).textContent = Number(slider.value).toFixed(2); };
    slider.value = network[key];
    tell();
    slider.addEventListener("input", () => { tell(); complain(""); update(); });
  }
  get("curl").textContent = `curl -F image=@photo.jpg "${location.origin}/predict?conf=${network.conf}&iou=${network.iou}"`;
  for (let number = 0; number < network.samples; number++) {
    const button = document.createElement("button"), picture = document.createElement("img");
    picture.src = `samples/${number}`;
    picture.alt = `sample ${number + 1}`;
    button.append(picture);
    button.addEventListener("click", async () => {
      stopCamera();
      await show(await (await fetch(picture.src)).blob(), `sample-${number + 1}.jpg`);
    });
    get("samples").append(button);
  }
  get("file").addEventListener("change", (event) => { take(event.target.files); event.target.value = ""; });
  for (const id of ["open", "drop"]) get(id).addEventListener("click", () => get("file").click());
  get("drop").addEventListener("keydown", (event) => { if (["Enter", " "].includes(event.key)) { event.preventDefault(); get("file").click(); } });
  get("camera").addEventListener("click", useCamera);
  get("download").addEventListener("click", download);
  document.addEventListener("paste", (event) => { if (event.clipboardData.files.length) take(event.clipboardData.files); });
  document.addEventListener("dragover", (event) => { event.preventDefault(); get("drop").classList.add("over"); });
  document.addEventListener("dragleave", () => get("drop").classList.remove("over"));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    get("drop").classList.remove("over");
    take(event.dataTransfer.files);
  });
}

start().catch((error) => complain(`The page could not start: ${error.message}`));
