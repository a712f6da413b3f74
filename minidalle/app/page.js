// Runs once for each board of the page; its HTML may change afterwards.
// Given by Gradio: element, trigger(name, data), watch(name, callback).

// A press on a button tells its number.
element.addEventListener('click', event => {
  const button = event.target.closest('[data-picture], [data-place], [data-code]');
  if (!button) return;
  const [name] = ['picture', 'place', 'code'].filter(key => key in button.dataset);
  trigger('select', { [name]: Number(button.dataset[name]) });
});

// In the mosaic the arrow keys go from token to token; Tab goes past it.
element.addEventListener('keydown', event => {
  const mosaic = event.target.closest('[data-side]');
  const side = mosaic && Number(mosaic.dataset.side);
  const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -side, ArrowDown: side }[event.key];
  if (!mosaic || !step) return;
  event.preventDefault();
  const place = Number(event.target.dataset.place);
  const sideways = Math.abs(step) === 1;
  if (sideways && Math.floor((place + step) / side) !== Math.floor(place / side)) return;
  mosaic.querySelector(`[data-place="${place + step}"]`)?.focus();
});

// On a narrow screen the chosen picture is below the others: go there.
watch('value', () => {
  const detail = innerWidth < 700 && element.querySelector('.detail');
  if (detail) detail.scrollIntoView({ block: 'nearest' });
});

// A picture that is dropped, pasted or chosen is sent as a data URL; of one too large the size only.
const send = file => {
  if (!file) return;
  const limit = Number(element.querySelector('[data-limit]').dataset.limit);
  if (file.size > limit) return trigger('upload', { size: file.size });
  const reader = new FileReader();
  reader.onload = () => trigger('upload', { url: reader.result });
  reader.readAsDataURL(file);
};
if (element.querySelector('.drop')) {
  const over = on => element.querySelector('.drop').classList.toggle('over', on);
  element.addEventListener('change', event => {
    send(event.target.files?.[0]);
    event.target.value = '';
  });
  element.addEventListener('dragover', event => { event.preventDefault(); over(true); });
  element.addEventListener('dragleave', () => over(false));
  element.addEventListener('drop', event => {
    event.preventDefault();
    over(false);
    send(event.dataTransfer.files[0]);
  });
  document.addEventListener('paste', event => {
    if (element.offsetParent) send(event.clipboardData?.files[0]);
  });
}
