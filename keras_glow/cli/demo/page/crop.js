// The square of an uploaded picture that the model sees: dragged, moved with the
// arrow keys, sized with a slider. All numbers are pixels of the picture.

export class CropBox {
  // `changed` is called with [left, top, side] when the user moves the square.
  constructor(root, changed) {
    this.root = root;
    this.whole = root.querySelector(".whole");
    this.box = root.querySelector(".box");
    this.slider = root.querySelector("input");
    this.changed = changed;
    this.slider.addEventListener("input", () => {
      const [left, top, side] = this.crop;
      const grown = (side - this.slider.valueAsNumber) / 2;
      this.move(left + grown, top + grown, this.slider.valueAsNumber);
    });
    this.box.addEventListener("keydown", (event) => {
      const step = Math.max(1, Math.round(Math.min(this.width, this.height) / 50));
      const [x, y] = {
        ArrowLeft: [-step, 0], ArrowRight: [step, 0],
        ArrowUp: [0, -step], ArrowDown: [0, step],
      }[event.key] ?? [];
      if (x === undefined) return;
      event.preventDefault();
      this.move(this.crop[0] + x, this.crop[1] + y, this.crop[2]);
    });
    this.box.addEventListener("pointerdown", (event) => {
      this.grip = [event.clientX, event.clientY, ...this.crop];
      this.box.setPointerCapture(event.pointerId);
    });
    this.box.addEventListener("pointermove", (event) => {
      if (!this.box.hasPointerCapture(event.pointerId)) return;
      const [x, y, left, top, side] = this.grip;
      const scale = this.width / this.whole.clientWidth;
      this.move(
        left + (event.clientX - x) * scale, top + (event.clientY - y) * scale, side,
      );
    });
  }

  // Shows a picture with the square in its middle, which has `least` pixels.
  open({ png, width, height }, least) {
    Object.assign(this, { width, height });
    const most = Math.min(width, height);
    this.image?.remove();
    this.image = Object.assign(document.createElement("img"), {
      alt: "The whole file", src: `data:image/png;base64,${png}`,
    });
    this.whole.prepend(this.image);
    Object.assign(this.slider, { min: Math.min(least, most), max: most });
    // High pictures take no more than 20rem of height.
    this.whole.style.width = `min(100%, ${20 * width / height}rem)`;
    this.place((width - most) / 2, (height - most) / 2, most);
    this.root.hidden = false;
  }

  close() {
    this.root.hidden = true;
    this.image?.remove();
  }

  move(...crop) {
    this.place(...crop);
    this.changed(this.crop);
  }

  place(left, top, side) {
    const within = (value, high) => Math.round(Math.min(Math.max(value, 0), high));
    side = within(side, Math.min(this.width, this.height));
    left = within(left, this.width - side);
    top = within(top, this.height - side);
    this.crop = [left, top, side];
    this.slider.value = side;
    this.box.style.left = `${100 * left / this.width}%`;
    this.box.style.top = `${100 * top / this.height}%`;
    this.box.style.width = `${100 * side / this.width}%`;
    this.box.style.height = `${100 * side / this.height}%`;
  }
}
