  wire();
  wireImages();
  wireAmbiguous();
  update();
  showAnchors();
})();
