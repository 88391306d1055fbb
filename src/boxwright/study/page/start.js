  wire();
  wireImages();
  wireRelabel();
  update();
  showAnchors();
})();
